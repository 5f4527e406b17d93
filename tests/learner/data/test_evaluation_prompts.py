"""Worked solutions and groups of an evaluation set's rows."""

from pathlib import Path
from typing import Any

import pytest

from learner.data.evaluation_prompts import EvaluationPromptReader
from learner.data.prompts import PromptLimits, PromptReader
from learner.data.shape import DataError
from learner.rollouts.prompts import Prompt
from tests.learner.builders import a_config
from tests.learner.data.letter_tokenizer import LetterTokenizer, a_data_row, jsonl

END = 1


def read(path: Path, *, overlong_prompts: str = "refuse", **evaluation: Any) -> list[Prompt]:
    config = a_config(evaluation=evaluation)
    data = config.data.model_copy(update={"overlong_prompts": overlong_prompts})
    prompts = PromptReader(data, LetterTokenizer(), PromptLimits(40))
    return EvaluationPromptReader(config.evaluation, prompts, END).read([path]).prompts


def test_a_solution_is_its_own_tokens_and_the_end_of_the_sequence(tmp_path: Path) -> None:
    (prompt,) = read(jsonl(tmp_path, a_data_row(extra_info={"worked": "2+2=4"})), solution_key="worked")

    assert prompt.solution is not None
    assert list(prompt.solution) == [*map(ord, "2+2=4"), END]


def test_without_the_keys_a_row_has_neither_solution_nor_group(tmp_path: Path) -> None:
    (prompt,) = read(jsonl(tmp_path, a_data_row(extra_info={"solution": "4", "k": 3})))

    assert (prompt.solution, prompt.group) == (None, "")


@pytest.mark.parametrize(
    ("number", "group"),
    [(0, "k_to_20"), (20, "k_to_20"), (21, "k_21_to_200"), (200, "k_21_to_200"), (201, "k_above_200")],
)
def test_a_range_includes_its_bound_and_begins_after_the_one_before(tmp_path: Path, number: int, group: str) -> None:
    path = jsonl(tmp_path, a_data_row(extra_info={"k": number}))

    (prompt,) = read(path, group_key="k", group_bounds=[20, 200])

    assert prompt.group == group


def test_only_the_rows_that_are_evaluated_need_a_solution(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row(extra_info={"solution": "4"}), a_data_row())

    assert len(read(path, solution_key="solution", num_prompts=1)) == 1


def test_the_first_prompts_are_those_that_are_not_too_long(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row("x" * 40), a_data_row("a"), a_data_row("b"))

    (prompt,) = read(path, overlong_prompts="skip", num_prompts=1)

    assert (prompt.text, prompt.index) == ("a", 1)


def test_a_row_behind_those_that_are_evaluated_is_checked_too(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row("a"), a_data_row(7))

    with pytest.raises(DataError, match="line 2: prompt is a number"):
        read(path, num_prompts=1)


@pytest.mark.parametrize("extra_info", [{}, {"solution": ""}, {"solution": 4}])
def test_a_row_without_the_named_solution_is_refused_by_its_line(tmp_path: Path, extra_info: Any) -> None:
    path = jsonl(tmp_path, a_data_row(extra_info=extra_info))

    with pytest.raises(DataError, match=r"line 1: extra_info\.solution is .*; expected a worked solution, as a text"):
        read(path, solution_key="solution")


@pytest.mark.parametrize("value", [None, "3", 3.0, True])
def test_a_group_that_is_no_whole_number_is_refused_by_its_line(tmp_path: Path, value: Any) -> None:
    path = jsonl(tmp_path, a_data_row(extra_info={"k": value}))

    with pytest.raises(DataError, match=r"line 1: extra_info\.k is .*; expected a whole number"):
        read(path, group_key="k", group_bounds=[20])


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"group_key": "k"}, "expected both or neither of them"),
        ({"group_bounds": [20]}, "expected both or neither of them"),
        ({"group_key": "k", "group_bounds": [20, 20]}, "expected rising numbers"),
        ({"group_key": "k", "group_bounds": [200, 20]}, "expected rising numbers"),
        ({"group_key": "k/l", "group_bounds": [20]}, "match pattern"),
    ],
)
def test_groups_that_are_no_ranges_are_refused(evaluation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        a_config(evaluation=evaluation)


def test_named_sets_come_behind_the_unnamed_one_and_have_no_index_in_common(tmp_path: Path) -> None:
    (tmp_path / "aime").mkdir()
    own = jsonl(tmp_path, a_data_row("a"), a_data_row("x" * 41), a_data_row("b"), a_data_row("c"))
    aime = jsonl(tmp_path / "aime", a_data_row("d", extra_info={}), a_data_row("e"))

    prompts = read(own, overlong_prompts="skip", sets={"aime": [aime]}, num_prompts=2)

    assert [(prompt.set_name, prompt.text, prompt.index) for prompt in prompts] == [
        ("", "a", 0),
        ("", "b", 2),
        ("aime", "d", 4),
        ("aime", "e", 5),
    ]


def test_only_the_unnamed_set_needs_solutions_and_groups(tmp_path: Path) -> None:
    (tmp_path / "aime").mkdir()
    own = jsonl(tmp_path, a_data_row(extra_info={"solution": "4", "k": 3}))
    aime = jsonl(tmp_path / "aime", a_data_row())

    first, second = read(own, sets={"aime": [aime]}, solution_key="solution", group_key="k", group_bounds=[20])

    assert (first.solution is None, first.group) == (False, "k_to_20")
    assert (second.solution, second.group) == (None, "")


def test_a_set_of_the_name_of_a_data_source_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row())
    source = read(path)[0].data_source

    with pytest.raises(DataError, match=r"line 1: data_source is .* evaluation\.sets has a set of this name"):
        read(path, sets={source: [path]})


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"samples_per_prompt": 2, "temperature": 0}, "all responses to a prompt would be the same"),
        ({"sets": {"a/b": ["x.jsonl"]}}, "sets: 'a/b' is no name; expected 1 to 64 letters"),
        ({"sets": {"": ["x.jsonl"]}}, "sets: '' is no name"),
    ],
)
def test_samples_and_sets_that_make_no_sense_are_refused(evaluation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        a_config(evaluation=evaluation)
