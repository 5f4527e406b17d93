"""Small files of one JSON object: written whole, and read with care.

A crash, a full disk or a foreign program may leave such a file empty, torn or with other content. A reader gets the
fields that it needs with the types that it needs, or one sentence that names the file; it rebuilds them from what lies
beside, or refuses with that sentence.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_lines import Fields, finite_json, plain

LARGEST_BYTES = 64 * 1024 * 1024
"""More is none of ours, and would only fill the memory."""
Kind = type | UnionType
KINDS: Mapping[Kind, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}


class DamagedFileError(ValueError):
    """A file that is not what was written: which one, what is wrong with it, and what was expected."""


def write_object(path: Path, fields: Mapping[str, Any]) -> None:
    """The file holds either its old object or this one, whatever happens."""
    write_atomically(path, json.dumps(fields, indent=1, allow_nan=False).encode() + b"\n")


def read_object(path: Path, needed: Mapping[str, Kind]) -> Fields | None:
    """The object in the file, with these fields among others; None where there is no file.

    Raises `DamagedFileError`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read: {error.strerror}; expected {_object(needed)}") from None
    fields = _parsed(content)
    complaint = fields if isinstance(fields, str) else _complaint(fields, needed)
    if isinstance(fields, str) or complaint:
        raise DamagedFileError(f"{path}: {complaint}; expected {_object(needed)}")
    return fields


def fits(fields: Mapping[str, Any], needed: Mapping[str, Kind]) -> bool:
    """Whether an object, such as a line of a file, has these fields among others."""
    return not _complaint(fields, needed)


def is_of(value: Any, kind: Kind) -> bool:
    """Whether a JSON value is of the kind: true is no number, and a whole number is a number."""
    if isinstance(kind, UnionType):
        return any(is_of(value, one) for one in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _parsed(content: bytes) -> Fields | str:
    """The object, or what is wrong."""
    if not content.strip(b"\0 \t\r\n"):
        return "is empty"
    if len(content) > LARGEST_BYTES:
        return f"has more than {LARGEST_BYTES} bytes"
    try:
        value = plain(finite_json(content))
    except UnicodeDecodeError:
        return "is not UTF-8"
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    return value if isinstance(value, dict) else f"holds {_name(type(value))}"


def _complaint(fields: Mapping[str, Any], needed: Mapping[str, Kind]) -> str:
    """Empty when every field is there."""
    for name, kind in needed.items():
        if name not in fields:
            return f"lacks {name!r}"
        if not is_of(fields[name], kind):
            return f"{name} is {str(fields[name])[:100]!r} instead of {_name(kind)}"
    return ""


def _name(kind: Kind) -> str:
    return " or ".join(KINDS[one] for one in (get_args(kind) or [kind]))


def _object(needed: Mapping[str, Kind]) -> str:
    names = ", ".join(needed)
    return f"a JSON object with {names}" if names else "a JSON object"
