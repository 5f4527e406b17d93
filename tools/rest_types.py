"""The REST interface's answers as TypeScript types, for the checker of the page: `python -m tools.rest_types`.

They are written from the dashboard's OpenAPI document: a field that an answer lost is an error in the view that has it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.dashboard.api.access import Access
from services.dashboard.api.app import STATIC, create_app
from services.dashboard.history.catalog import Catalog
from services.dashboard.live.stream import Broadcaster
from services.dashboard.live.view import Views

FILE = STATIC / "data" / "answers.d.ts"
HEAD = "// The answers of the REST interface, from its OpenAPI document; `make docs` writes this file.\n"
PRIMITIVES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}

Schema = Mapping[str, Any]


def answer_types() -> str:
    """The file's text."""
    views = Views(Catalog(Path()))
    document = create_app(views, Broadcaster(views), access=Access(token="any")).openapi()
    answers = sorted(_reached(document))
    return "\n".join([HEAD, *(_interface(name, document["components"]["schemas"][name]) for name in answers)])


def _reached(document: Schema) -> set[str]:
    """The schemas of successful answers, and those that they name."""
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    waiting = list(_references([operation["responses"].get("200", {}) for operation in operations]))
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _references(document["components"]["schemas"][name])
    return reached


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.rsplit("/", 1)[1]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _interface(name: str, schema: Schema) -> str:
    lines = [f"export interface {_identifier(name)} {{"]
    for key, field in schema.get("properties", {}).items():
        if "description" in field:
            lines.append(f"  /** {' '.join(field['description'].split())} */")
        lines.append(f"  {key}: {_type(field)};")
    return "\n".join([*lines, "}\n"])


def _identifier(name: str) -> str:
    return name.replace("_", "")


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return _identifier(schema["$ref"].rsplit("/", 1)[1])
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"]))
    if "prefixItems" in schema:
        return f"[{', '.join(map(_type, schema['prefixItems']))}]"
    if schema.get("type") == "array":
        return f"Array<{_type(schema['items'])}>"
    if schema.get("type") == "object":
        of = schema.get("additionalProperties")
        return f"Record<string, {_type(of) if isinstance(of, dict) and of else 'any'}>"
    return PRIMITIVES.get(schema.get("type", ""), "unknown")


if __name__ == "__main__":
    FILE.write_text(answer_types(), encoding="utf-8")
