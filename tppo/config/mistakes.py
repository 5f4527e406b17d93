"""A mistake in the configuration -> one sentence: the key, its value, and what was expected there.

What a key accepts is put into words from its JSON schema: `a whole number from 0 to 1000`.
"""

import difflib
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, time
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from tppo.config.other_names import OURS_BY_NAME
from tppo.config.schema import Config

Schema = Mapping[str, Any]
TRUNCATING = frozenset({"top_p", "top_k", "min_p", "typical_p", "top_a", "tfs"})
PENALISING = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "min_tokens"})
CLOSE = 0.7  # of 1: names that differ by a slip of the keyboard
SHORTENED = reprlib.Repr()
SHORTENED.maxstring = SHORTENED.maxother = 80


def sentence_of(error: ErrorDetails, table: Mapping[str, Any]) -> str:
    """Of the first thing that validation found in the table."""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        location, value = _first_leaf(location, error["input"])
        return f"unknown key {'.'.join(location)} = {shown(value)}; {suggestion(location)}"
    if error["type"] == "missing" and len(location) <= 2:
        return f"key {'.'.join(location)} is missing; expected a value"
    section, *names = location[:2] or [""]
    if error["type"] == "value_error" and not names:
        message = error["msg"].removeprefix("Value error, ")
        return f"[{section}] {message}" if section else message
    if not names:
        return f"{section} = {shown(table[section])}; expected a table of keys, such as [{section}]"
    key, value = f"{section}.{names[0]}", table[section][names[0]]
    return f"{key} = {shown(value)}; expected {expected_of(section_of(section), names[0])}"


def suggestion(location: Sequence[str]) -> str:
    """What the user of an unknown key may have meant."""
    *owner, name = location
    if name in TRUNCATING | PENALISING:
        return (
            "expected no such key: the policy that is trained is the whole distribution at generation.temperature, and "
            "tokens drawn from any other have other log-probabilities"
        )
    found = _same_meaning(owner[:1], name) or _similar(owner, name)
    if found:
        return f"did you mean {' or '.join(found)}?"
    known = keys_of(owner[0]) if owner and owner[0] in Config.model_fields else Config.model_fields
    return f"expected one of {', '.join(known)}"


def section_of(name: str) -> type[BaseModel]:
    """The model of a table."""
    annotation = Config.model_fields[name].annotation
    return next(one for one in (annotation, *get_args(annotation)) if isinstance(one, type))


def keys_of(section: str) -> Sequence[str]:
    """The keys of a table."""
    return list(section_of(section).model_fields)


def all_keys() -> Iterator[str]:
    """Every key with its section."""
    for section in Config.model_fields:
        yield from (f"{section}.{name}" for name in keys_of(section))


def _first_leaf(location: list[str], value: Any) -> tuple[list[str], Any]:
    """The first key in an unknown table: its name says more than the table's."""
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        location = [*location, name]
    return location, value


def _same_meaning(owner: Sequence[str], name: str) -> list[str]:
    """Ours of the same name in other sections, or for which another system has this name, in its section first."""
    name = name.lower().replace("-", "_").rpartition(".")[2]
    found = [key for key in all_keys() if key.endswith(f".{name}")]
    ours = OURS_BY_NAME.get(name)
    if not found and ours is not None:
        in_section = [f"{section}.{ours.partition('.')[2]}" for section in owner]
        found = [key for key in in_section if key in all_keys()] or [ours]
    return found


def _similar(owner: Sequence[str], name: str) -> list[str]:
    if owner and owner[0] in Config.model_fields:
        return [f"{owner[0]}.{close}" for close in difflib.get_close_matches(name, keys_of(owner[0]), n=1)]
    sections = difflib.get_close_matches((*owner, name)[0], Config.model_fields, n=1)
    if sections or owner:
        return sections
    names = {key.partition(".")[2]: key for key in all_keys()}
    return [names[close] for close in difflib.get_close_matches(name, names, n=1, cutoff=CLOSE)]


def expected_of(section: type[BaseModel], name: str) -> str:
    """What the field of this name accepts."""
    schema = section.model_json_schema()
    return _phrase(schema["properties"][name])


def shown(value: Any) -> str:
    """A value as the file has it, shortened to fit a sentence."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, date | time) else SHORTENED.repr(value)


def _phrase(schema: Schema) -> str:
    if "expected" in schema:
        return str(schema["expected"])
    if "anyOf" in schema:
        return " or ".join(map(_phrase, without_null(schema["anyOf"])))
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return _alternatives(choices) if choices else PHRASES[schema["type"]](schema)


def without_null(kinds: Sequence[Schema]) -> list[Schema]:
    """What a key that may be unset is written as: a number, or else `none`."""
    written = [one for one in kinds if one.get("type") != "null"]
    is_number = all(one.get("type") in ("integer", "number") for one in written)
    return [*written, {"const": "none"}] if is_number and len(written) < len(kinds) else written


def _alternatives(choices: Sequence[Any]) -> str:
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _number(schema: Schema) -> str:
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    lowest, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    highest, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if lowest is not None and highest is not None:
        return f"{noun} from {_plain(lowest)} to {_plain(highest)}"
    bounds = {"at least": lowest, "above": above, "at most": highest, "below": below}
    limits = " and ".join(f"{word} {_plain(bound)}" for word, bound in bounds.items() if bound is not None)
    return f"{noun} {limits}".strip()


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _array(schema: Schema) -> str:
    if "prefixItems" in schema:
        parts = schema["prefixItems"]
        return f"a list of {len(parts)}, each {_phrase(parts[0])}"
    least = " with at least one entry" if schema.get("minItems") else ""
    return f"a list{least}, each {_phrase(schema['items'])}"


PHRASES: Mapping[str, Callable[[Schema], str]] = {
    "integer": _number,
    "number": _number,
    "boolean": lambda _: "true or false",
    "string": lambda schema: "a path" if schema.get("format") == "path" else "a text",
    "array": _array,
    "object": lambda schema: f"a table, each value {_phrase(schema['additionalProperties'])}",
}
