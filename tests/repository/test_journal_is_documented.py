"""docs/journal.md names every kind, field and event that the learner writes, and no other."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
JOURNAL = ROOT / "learner" / "reporting" / "journal.py"
EVENT = re.compile(r"\.event\(\s*\"(\w+)\"")


def table(heading: str) -> Mapping[str, str]:
    """First column -> last column."""
    rows = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [row.strip("|").split("|") for row in rows]
    return {row[0].strip().strip("`"): row[-1] for row in cells}


def lines_in_the_code() -> Iterator[tuple[str, set[str]]]:
    """Kind and fields of each line that the journal's module makes."""
    for node in ast.walk(ast.parse(JOURNAL.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            fields = {
                key.value: value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }
            if isinstance(kind := fields.pop("kind", None), ast.Constant):
                yield str(kind.value), {str(name) for name in fields}


def test_every_kind_of_line_is_documented_with_its_fields() -> None:
    documented = {kind: set(re.findall(r"`([a-z_]+)`", fields)) for kind, fields in table("kind").items()}
    written = dict(lines_in_the_code())

    assert documented.keys() == written.keys()
    assert {kind: fields - documented[kind] for kind, fields in written.items()} == {kind: set() for kind in written}


def test_every_event_is_documented() -> None:
    written = {name for path in (ROOT / "learner").rglob("*.py") for name in EVENT.findall(path.read_text("utf-8"))}

    assert set(table("event")) == written
