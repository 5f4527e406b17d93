"""Which responses of a training step are shown on the console."""

from pathlib import Path

import pytest

from learner.reporting.completions_log import CompletionsLog
from learner.rollouts.rollout import Rollout
from tests.learner.builders import a_prompt
from tppo.rollout import tokens
from tppo.run_folder.completion_lines import is_completion_line, shortened
from tppo.run_folder.json_lines import read_objects


def a_row(name: str, *, score: float | None = None) -> Rollout:
    row = Rollout(name, a_prompt(3), 0, is_finished=score is not None, score=score)
    row.response_tokens = tokens([7, 8])
    return row


def noted(path: Path, every: int, *rows: Rollout, steps: range = range(1, 2)) -> list[tuple[int, str]]:
    log = CompletionsLog(path, every=every, decode=lambda response: " ".join(map(str, response)))
    for step in steps:
        log.note(rows, step=step)
    return [(line["step"], line["rollout"]) for line in read_objects(path)]


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4])])
def test_completions_are_written_every_so_many_steps(tmp_path: Path, every: int, steps: list[int]) -> None:
    written = noted(tmp_path / "completions.jsonl", every, a_row("0-3-0", score=1.0), steps=range(1, 6))

    assert written == [(step, "0-3-0") for step in steps]


def test_responses_that_have_ended_come_before_those_that_have_not(tmp_path: Path) -> None:
    mixed = noted(tmp_path / "mixed", 1, a_row("0-1-0"), a_row("0-2-0", score=0.0), a_row("0-3-0", score=1.0))
    unfinished = noted(tmp_path / "unfinished", 1, a_row("0-1-0"))

    assert mixed == [(1, "0-2-0"), (1, "0-3-0")]
    assert unfinished == [(1, "0-1-0")]


def test_no_more_are_written_than_fit_on_a_screen(tmp_path: Path) -> None:
    rows = [a_row(f"0-{number}-0", score=1.0) for number in range(9)]

    assert len(noted(tmp_path / "completions.jsonl", 1, *rows)) == 4


def test_a_line_has_prompt_completion_and_score(tmp_path: Path) -> None:
    noted(tmp_path / "completions.jsonl", 1, a_row("0-3-0", score=0.5))

    (line,) = read_objects(tmp_path / "completions.jsonl")

    assert is_completion_line(line)
    assert (line["prompt"], line["completion"], line["num_tokens"], line["score"]) == ("prompt 3", "7 8", 2, 0.5)


def test_a_long_text_keeps_both_ends() -> None:
    assert shortened("abcdefghij", 9) == "abc … hij"
    assert shortened("abcdefghi", 9) == "abcdefghi"
