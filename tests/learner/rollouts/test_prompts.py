"""Data files in verl's columns become prompts; whatever cannot be used is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from learner.rollouts.prompts import DataError, Prompt, PromptOrder, PromptReader
from tests.learner.builders import a_config

MESSAGES = [{"role": "user", "content": "2+2"}]


class LetterTokenizer:
    """One token per character, behind a first token of its own with `add_special_tokens`."""

    def __init__(self, chat_template: str | None = "template") -> None:
        self.chat_template = chat_template

    def __call__(self, text: str, /, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [0] * add_special_tokens + [ord(letter) for letter in text]}

    def apply_chat_template(self, conversation: Any, /, **options: Any) -> str:
        assert options == {"tokenize": False, "add_generation_prompt": True}
        return "".join(f"<{message['role']}>{message['content']}" for message in conversation) + "<assistant>"


def a_data_row(prompt: Any = "2+2", **changes: Any) -> dict[str, Any]:
    return {"prompt": prompt, "data_source": "sums", "reward_model": {"ground_truth": "4"}} | changes


def read(path: Path, *, tokenizer: LetterTokenizer | None = None, max_prompt_length: int = 40) -> list[Prompt]:
    section = a_config().data
    return PromptReader(section, tokenizer or LetterTokenizer(), max_prompt_length).read([path])


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_text_becomes_its_tokens_with_the_tokenizers_special_tokens(tmp_path: Path) -> None:
    (prompt,) = read(jsonl(tmp_path, a_data_row(extra_info={"level": 3})))

    assert prompt.text == "2+2"
    assert list(prompt.token_ids) == [0, 50, 43, 50]
    assert (prompt.data_source, prompt.ground_truth) == ("sums", "4")
    assert json.loads(prompt.extra_info) == {"level": 3}


def test_chat_messages_go_through_the_template_which_writes_the_special_tokens_itself(tmp_path: Path) -> None:
    (prompt,) = read(jsonl(tmp_path, a_data_row(MESSAGES)))

    assert prompt.text == "<user>2+2<assistant>"
    assert list(prompt.token_ids) == [ord(letter) for letter in "<user>2+2<assistant>"]


def test_parquet_holds_the_same_rows_as_jsonl(tmp_path: Path) -> None:
    rows = [a_data_row(MESSAGES, extra_info={"index": 0}), a_data_row(MESSAGES, extra_info={"index": 1})]
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    assert read(path) == read(jsonl(tmp_path, *rows))


def test_rows_are_numbered_through_all_files_and_empty_lines_do_not_count(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row("a"))
    path.write_text(path.read_text() + "\n", encoding="utf-8")
    reader = PromptReader(a_config().data, LetterTokenizer(), 40)

    assert [(prompt.index, prompt.text) for prompt in reader.read([path, path])] == [(0, "a"), (1, "a")]


def test_an_answer_that_is_no_text_is_kept_as_json(tmp_path: Path) -> None:
    (prompt,) = read(jsonl(tmp_path, a_data_row(reward_model={"ground_truth": [1, 0]})))

    assert prompt.ground_truth == "[1, 0]"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (a_data_row(reward_model={}), "line 1: no answer; expected reward_model.ground_truth"),
        (a_data_row(reward_model={"ground_truth": ""}), "line 1: no answer"),
        ({"prompt": "2+2", "data_source": "sums"}, "line 1: no answer"),
        ({"question": "2+2"}, r"line 1: no prompt; expected verl's columns \(got question\)"),
        (a_data_row(""), "line 1: no prompt"),
        (a_data_row([]), "line 1: no prompt"),
        ({"prompt": "2+2"}, "line 1: no data_source"),
        ([1, 2], r"line 1: \[1, 2\]; expected an object with verl's columns"),
        (a_data_row("x" * 40), "the prompt has 41 tokens; expected 1 to run.max_prompt_length = 40"),
    ],
)
def test_an_unusable_row_is_refused_by_its_line(tmp_path: Path, row: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read(jsonl(tmp_path, row))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file; expected prompts in parquet or JSONL"):
        read(tmp_path / "absent.jsonl")


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows; expected at least one prompt"):
        read(jsonl(tmp_path))


def test_a_line_that_is_not_json_is_refused_by_its_number(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row())
    path.write_text(path.read_text() + "{\n", encoding="utf-8")

    with pytest.raises(DataError, match="line 2: not JSON"):
        read(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    path.write_text("not parquet", encoding="utf-8")

    with pytest.raises(DataError, match=r"data\.parquet: not a parquet file"):
        read(path)


def test_messages_without_a_chat_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a tokenizer with a chat template"):
        read(jsonl(tmp_path, a_data_row(MESSAGES)), tokenizer=LetterTokenizer(chat_template=None))


def ids(order: PromptOrder, count: int) -> list[str]:
    return [order.at(ordinal)[1] for ordinal in range(count)]


def test_unshuffled_prompts_come_in_file_order_each_sampled_in_a_row() -> None:
    order = PromptOrder(num_prompts=2, samples_per_prompt=2, seed=0, shuffle=False)

    assert ids(order, 6) == ["0-0-0", "0-0-1", "0-1-0", "0-1-1", "1-0-0", "1-0-1"]
    assert order.at(3)[0] == 1


def test_each_epoch_takes_every_prompt_once_in_another_order() -> None:
    order = PromptOrder(num_prompts=20, samples_per_prompt=1, seed=0, shuffle=True)

    first, second = ([order.at(epoch * 20 + place)[0] for place in range(20)] for epoch in range(2))

    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_the_order_is_drawn_from_the_seed() -> None:
    orders = [PromptOrder(num_prompts=20, samples_per_prompt=1, seed=seed, shuffle=True) for seed in (7, 7, 8)]

    same, again, other = (ids(order, 20) for order in orders)

    assert same == again != other


@given(
    num_prompts=st.integers(1, 12),
    samples_per_prompt=st.integers(1, 4),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
    ordinal=st.integers(0, 300),
)
def test_a_rollout_id_has_its_number(
    num_prompts: int, samples_per_prompt: int, seed: int, shuffle: bool, ordinal: int
) -> None:
    order = PromptOrder(num_prompts, samples_per_prompt, seed, shuffle)
    index, rollout_id = order.at(ordinal)

    assert order.ordinal(rollout_id) == ordinal
    assert rollout_id.split("-")[1] == str(index)


@pytest.mark.parametrize("rollout_id", ["eval-3-0", "0-5-0", "0-0-2", "0-0", "", "0-x-0", "0--1-0"])
def test_an_id_that_is_not_of_this_order_has_no_number(rollout_id: str) -> None:
    assert PromptOrder(num_prompts=5, samples_per_prompt=2, seed=0, shuffle=True).ordinal(rollout_id) is None
