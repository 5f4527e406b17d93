"""docs/configuration.md, made from the schema: `make docs`.

`make check` fails when the page is not what this prints.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tppo.config.mistakes import without_null
from tppo.config.schema import Config

Schema = Mapping[str, Any]
LINK = re.compile(r"docs/((?!configuration)[\w/-]+\.md)")
UNIT = re.compile(r"\s*\[([^\]]+)\]$")
BOUNDS = {"exclusiveMinimum": "> {}", "minimum": ">= {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
INTRODUCTION = """\
# Configuration

One TOML file holds a run. `--set section.key=value` overrides a key, `--set section.key=` takes it out of the file, so
that the default holds; a number that may be unset is so by `"none"` too, unless its meaning says more.
`--dry-run` prints the resolved configuration. An
unknown key, or a value that does not fit, is refused before anything starts, in one sentence that names the key.
Relative paths in the file are relative to the file's folder.

Made from `tppo/config/` by `make docs`; edit it there. Names follow verl where it has one. "Factor" and "ratio" have no
unit.
"""


class KeyText(NamedTuple):
    """The parts of the text under a key of the schema."""

    meaning: str
    unit: str
    when_to_change: str


def key_text(description: str) -> KeyText:
    """Two paragraphs, the first of which ends in the unit in brackets, or has none."""
    first, _, second = (" ".join(part.split()) for part in description.partition("\n\n"))
    unit = UNIT.search(first)
    return KeyText(UNIT.sub("", first), unit[1] if unit else "", second)


def page() -> str:
    """The whole page."""
    schema = Config.model_json_schema()
    sections = {name: schema["$defs"][_definition(prop)] for name, prop in schema["properties"].items()}
    lines = (line for name, section in sections.items() for line in _section(name, section))
    return LINK.sub(r"[\1](\1)", "\n".join([INTRODUCTION, *lines]))


def _section(name: str, section: Schema) -> Iterator[str]:
    yield from (f"## `[{name}]`", "", section["description"], "")
    yield from ("| key | type | default | unit | meaning | when to change it |", "|---|---|---|---|---|---|")
    for key, prop in section["properties"].items():
        text = key_text(prop["description"])
        default = "required" if key in section.get("required", ()) else _default(prop)
        cells = (f"`{key}`", _type(prop), default, text.unit, text.meaning, text.when_to_change)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _definition(prop: Schema) -> str:
    return str(prop["$ref"]).rpartition("/")[2]


def _default(prop: Schema) -> str:
    if "default" not in prop:  # of a list or a table
        return "empty"
    return "unset" if prop["default"] is None else f"`{json.dumps(prop['default'])}`"


def _type(prop: Schema) -> str:
    if "anyOf" in prop:
        return " or ".join(map(_type, without_null(prop["anyOf"])))
    if choices := prop.get("enum", [prop["const"]] if "const" in prop else []):
        return ", ".join(f"`{json.dumps(choice)}`" for choice in choices)
    if "type" not in prop:
        return "any"
    if prop["type"] == "array":
        parts = prop.get("prefixItems", [prop.get("items", {})])
        return f"{len(parts)} of: {_type(parts[0])}" if "prefixItems" in prop else f"list of: {_type(parts[0])}"
    if prop["type"] == "object":
        return f"table of: {_type(prop['additionalProperties'])}"
    bounds = [text.format(prop[name]) for name, text in BOUNDS.items() if name in prop]
    name = {"string": prop.get("format", "text")}.get(prop["type"], prop["type"])
    return f"{name} {', '.join(bounds)}".strip()


if __name__ == "__main__":
    sys.stdout.write(page())
