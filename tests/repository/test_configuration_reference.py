"""docs/configuration.md is what the schema says, and the schema says of every key what a user needs."""

import json
from pathlib import Path

import pytest

from tppo.config import Config
from tppo.config.reference import key_text, page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SCHEMA = Config.model_json_schema()
KEYS = {
    f"{section}.{name}": prop
    for section, reference in SCHEMA["properties"].items()
    for name, prop in SCHEMA["$defs"][reference["$ref"].rpartition("/")[2]]["properties"].items()
}
PORTS = ("generation", "endpoint", "reward", "dashboard", "prometheus")
NUMBERS_WITHOUT_UNIT = {"run.seed", *(f"{section}.port" for section in PORTS)}


def is_number(prop: object) -> bool:
    """A table of values of any type is none."""
    schema = json.dumps(prop)
    return '"object"' not in schema and any(kind in schema for kind in ('"integer"', '"number"'))


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_meaning_and_says_when_to_change_it(key: str) -> None:
    text = key_text(KEYS[key]["description"])

    assert text.meaning.endswith((".", "?"))
    assert text.when_to_change.endswith(".")


@pytest.mark.parametrize("key", [key for key, prop in KEYS.items() if is_number(prop)])
def test_every_number_has_a_unit(key: str) -> None:
    assert key in NUMBERS_WITHOUT_UNIT or key_text(KEYS[key]["description"]).unit


def test_the_unit_is_taken_from_the_end_of_the_first_paragraph() -> None:
    text = key_text("Limit of a\nresponse. [tokens]\n\nUp when needed\n[sic].")

    assert text == ("Limit of a response.", "tokens", "Up when needed [sic].")
