"""`--set section.key=value`: spaces, tables, home folders, and bytes that are no text."""

from pathlib import Path

import pytest

from tppo.config import ConfigError, load

MINIMAL = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL + '[reward.functions]\nsums = "exact"\nproducts = "math"\n')
    return path


@pytest.mark.parametrize("override", ["run.seed=7", "run.seed = 7", " run.seed =7 # seven"])
def test_spaces_around_the_parts_of_an_override_mean_nothing(file: Path, override: str) -> None:
    assert load(file, [override]).run.seed == 7


def test_an_override_without_a_value_takes_one_entry_out_of_a_table(file: Path) -> None:
    assert load(file, ["reward.functions.sums="]).reward.functions == {"products": "math"}
    assert load(file, ["reward.functions="]).reward.functions == {}


def test_of_two_overrides_of_an_entry_the_later_one_counts(file: Path) -> None:
    overrides = ["reward.functions.sums=", "reward.functions.sums=boxed"]

    assert load(file, overrides).reward.functions["sums"] == "boxed"
    assert "sums" not in load(file, overrides[::-1]).reward.functions


def test_an_override_of_bytes_that_are_no_text_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^override .*: not UTF-8; expected text in UTF-8$"):
        load(file, ["data.prompt_key=\udcff"])


def test_a_home_folder_is_found_where_no_shell_replaces_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    overrides = ["run.directory=~/runs", "model.path=~/models/m", "data.train_files=['~/t.jsonl']"]

    config = load(file, [*overrides, "reward.default_function=~/mine.py:score"])

    assert (config.run.directory, config.model.path) == (Path("/home/me/runs"), Path("/home/me/models/m"))
    assert config.data.train_files == [Path("/home/me/t.jsonl")]
    assert config.reward.default_function == "/home/me/mine.py:score"
