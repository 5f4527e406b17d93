"""Completions on the console of `tppo run`."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.local.__main__ import config_of, parser
from services.local.console.completions import CompletionTables, printable, table_of
from tppo.run_folder.completion_lines import completion_line


def a_line(step: int = 10, **more: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"rollout": "0-3-0", "prompt": "1+1?", "completion": "2", "num_tokens": 3, "score": 1.0}
    return completion_line(step=step, **(known | more))


def append(path: Path, *lines: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_table_shows_prompt_completion_length_and_score() -> None:
    rows = table_of(10, [a_line(), a_line(completion="three", score=0.25), a_line(score=None)]).splitlines()

    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    assert rows[0] == "training step 10"
    assert [cell for cell in cells if set("".join(cell)) - {"-", "+"}] == [
        ["prompt", "completion", "tokens", "score"],
        ["1+1?", "2", "3", "1"],
        ["1+1?", "three", "3", "0.25"],
        ["1+1?", "2", "3", "not ended"],
    ]


def test_no_text_of_a_model_moves_the_cursor_or_is_taken_for_markup() -> None:
    table = table_of(1, [a_line(prompt="[red]a\tb[/]", completion="\x1b[2J\r\nno\u202e\u200b")])

    assert r"[red]a\tb[/]" in table
    assert r"\x1b[2J\r\nno\u202e\u200b" in table
    assert all(line.isprintable() for line in table.splitlines())


@pytest.mark.parametrize("text", ["ä 漢 🙂", "a b"])
def test_letters_of_every_script_stay(text: str) -> None:
    assert printable(text) == text


def test_a_table_is_bounded_however_long_the_texts_are() -> None:
    table = table_of(1, [a_line(prompt="p" * 10**6, completion="c" * 10**6)])

    assert max(map(len, table.splitlines())) <= 118
    assert len(table.splitlines()) < 20


def test_a_table_fits_a_narrow_terminal() -> None:
    table = table_of(1, [a_line(prompt="p" * 100, completion="c" * 100)], width=60)

    assert max(map(len, table.splitlines())) <= 60


@pytest.mark.parametrize(
    ("options", "every"),
    [
        ([], 0),
        (["--log-completions"], 10),
        (["--set", "trace.log_completions=3"], 3),
        (["--log-completions", "--set", "trace.log_completions=3"], 3),
    ],
)
def test_the_option_prints_every_10_steps_unless_the_key_says_otherwise(
    tmp_path: Path, options: list[str], every: int
) -> None:
    config = tmp_path / "run.toml"
    config.write_text('[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n')

    assert config_of(parser().parse_args([str(config), *options])).trace.log_completions == every


def test_each_step_is_printed_once_and_those_of_an_earlier_session_never(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    append(path, a_line(step=10))
    tables = CompletionTables(path)
    append(path, a_line(step=20), a_line(step=20), a_line(step=30), {"step": "no line of ours"})

    first, then = tables.new(), tables.new()

    assert [text.splitlines()[0] for text in first] == ["training step 20", "training step 30"]
    assert then == []
