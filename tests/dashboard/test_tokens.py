"""Texts of tokens and of prompts, for a person."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from services.dashboard.tokens.prompts import Prompts, PromptText
from services.dashboard.tokens.response import texts_of
from services.dashboard.tokens.traces import rows_of, value_points
from tests.dashboard.run_folders import RunFolderBuilder, token

ROWS = [{"prompt": f"prompt {number}", "reward_model": {"ground_truth": str(number)}} for number in range(4)]


def bytes_tokenizer() -> Tokenizer:
    """A token per byte; its number is the place in the alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_a_character_of_several_tokens_stands_at_the_last_of_them() -> None:
    tokenizer = bytes_tokenizer()

    # "é" is two bytes in UTF-8, so two tokens here.
    assert texts_of(tokenizer, tokenizer.encode("aéb").ids) == ["a", "", "é", "b"]


def test_without_a_tokenizer_there_are_no_texts() -> None:
    assert texts_of(None, [1, 2]) == ["", ""]


@pytest.mark.parametrize(("index", "answer"), [(0, "0"), (2, "2"), (3, "3")])
def test_a_row_is_found_in_files_laid_end_to_end(tmp_path: Path, index: int, answer: str) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.parquet"
    first.write_text(f"{json.dumps(ROWS[0])}\n\n{json.dumps(ROWS[1])}\n")  # an empty line is no row
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[2:]), second, row_group_size=1)

    assert Prompts().row([first, second], index, "prompt") == PromptText(f"prompt {index}", answer)


def test_messages_stand_one_below_the_other(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1 + 1?"}]
    file.write_text(json.dumps({"question": turns}) + "\n")

    assert Prompts().row([file], 0, "question") == PromptText("system: be brief\n\nuser: 1 + 1?", None)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    file, prompts = tmp_path / "train.jsonl", Prompts()
    file.write_text(json.dumps(ROWS[0]) + "\n")
    prompts.row([file], 0, "prompt")

    file.write_text(f"{json.dumps(ROWS[1])}\n{json.dumps(ROWS[2])}\n")

    assert prompts.row([file], 1, "prompt") == PromptText("prompt 2", "2")


@pytest.mark.parametrize("content", [b"", b"not json\n", b"[1]\n"])
def test_what_cannot_be_read_is_no_prompt(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(content)

    assert Prompts().row([file, tmp_path / "missing.parquet"], 0, "prompt") is None


def test_of_a_trace_only_the_rollouts_rows_are_taken(tmp_path: Path) -> None:
    run = RunFolderBuilder(tmp_path / "quick")
    run.trace(1, token("a", 0, 7), token("b", 0, 8), token("a", 1, 9))

    rows = rows_of(run.path / "traces" / "step_000001.parquet", "a")

    assert rows
    assert (rows["position"], rows["token_id"]) == ([0, 1], [7, 9])


def test_a_file_that_is_no_trace_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "step_000001.parquet"
    path.write_bytes(b"nonsense")

    assert rows_of(path, "a") is None
    assert value_points(path, max_points=5, seed=1) is None


def test_points_are_drawn_from_what_trained_the_value_model_and_drawn_alike(tmp_path: Path) -> None:
    run = RunFolderBuilder(tmp_path / "quick")
    trained = [token("a", position, 0, value_mask=True, **{"return": 1.0}) for position in range(50)]
    run.trace(1, token("b", 99, 0), *trained)
    path = run.path / "traces" / "step_000001.parquet"

    first, second = (value_points(path, max_points=10, seed=1) for _ in range(2))

    assert first == second
    assert first
    assert len(set(first["position"]) - {99}) == 10
