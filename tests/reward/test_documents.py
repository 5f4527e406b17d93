"""What docs/rewards.md shows works as it stands there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from services.reward.verifiers.built_in import BUILT_IN
from services.reward.verifiers.placement import calls
from services.reward.verifiers.user_files import adapted
from tppo.config.schema import RewardSection

PAGE = (Path(__file__).parents[2] / "docs/rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("toml"))
def test_each_configuration_is_one(block: str) -> None:
    section = RewardSection(**tomllib.loads(block)["reward"])

    for spec in {*section.functions.values(), section.default_function}:
        assert calls(spec)


@pytest.mark.parametrize("block", blocks("python"))
def test_each_function_is_of_a_known_signature(block: str) -> None:
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(block, names)

    functions = [value for name, value in names.items() if getattr(value, "__module__", "") == "documentation"]
    assert functions
    for function in functions:
        assert callable(adapted(function, "documentation"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_built_in_has_its_line(name: str) -> None:
    assert re.search(rf"^\| `{name}\b", PAGE, re.MULTILINE)
