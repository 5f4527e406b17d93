"""Rows of data files in verl's columns; whatever cannot be used is refused in one sentence with file and line."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from learner.data.rows import DataRow, rows_in
from learner.data.shape import DataError
from tests.learner.builders import a_config
from tests.learner.data.letter_tokenizer import a_data_row, jsonl

MESSAGES = [{"role": "user", "content": "2+2"}]


def rows(*files: Path) -> list[DataRow]:
    return list(rows_in(a_config().data, files))


def test_parquet_holds_the_same_rows_as_jsonl(tmp_path: Path) -> None:
    plain = [a_data_row(MESSAGES, extra_info={"index": index}) for index in range(2)]
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(plain), path)

    from_parquet, from_jsonl = rows(path), rows(jsonl(tmp_path, *plain))

    assert [str(row.where) for row in from_parquet] == [f"{path}, row 1", f"{path}, row 2"]
    assert [(row.prompt, row.extra_info) for row in from_parquet] == [(MESSAGES, f'{{"index": {n}}}') for n in (0, 1)]
    assert [row.prompt for row in from_jsonl] == [row.prompt for row in from_parquet]


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *[a_data_row(f"{n}+1") for n in range(3)], "not an object")

    first = itertools.islice(rows_in(a_config().data, [path]), 3)

    assert [row.prompt for row in first] == ["0+1", "1+1", "2+1"]


def test_empty_lines_do_not_count_as_rows_but_as_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row("a"))
    path.write_text(f"\n{path.read_text()}\n", encoding="utf-8")

    assert [(row.where.number, row.prompt) for row in rows(path, path)] == [(2, "a"), (2, "a")]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path, a_data_row("a"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert [row.prompt for row in rows(path)] == ["a"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_messages_that_come_as_a_text_of_json_are_messages(tmp_path: Path, suffix: str) -> None:
    row = a_data_row(json.dumps(MESSAGES))
    path = jsonl(tmp_path, row)
    if suffix == "parquet":
        path = tmp_path / "data.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)

    assert [row.prompt for row in rows(path)] == [MESSAGES]


def test_a_text_that_is_another_json_list_stays_a_text(tmp_path: Path) -> None:
    texts = ["[1, 2]", '[{"name": "user"}]', "[{not JSON}]", '{"role": "user"}']

    assert [row.prompt for row in rows(jsonl(tmp_path, *map(a_data_row, texts)))] == texts


def test_an_answer_that_is_no_text_is_kept_as_json(tmp_path: Path) -> None:
    (row,) = rows(jsonl(tmp_path, a_data_row(reward_model={"ground_truth": [1, 0]})))

    assert row.ground_truth == "[1, 0]"


def test_a_turn_that_calls_a_tool_needs_no_text(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}

    (row,) = rows(jsonl(tmp_path, a_data_row([*MESSAGES, call])))

    assert row.prompt == [*MESSAGES, call]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ([1, 2], "[1, 2]; expected an object with verl's columns"),
        ({"question": "2+2"}, "no prompt; expected verl's columns (got question)"),
        (a_data_row(""), "no prompt; expected verl's columns"),
        (a_data_row([]), "no prompt; expected verl's columns"),
        (a_data_row(None), "no prompt; expected verl's columns"),
        (a_data_row(7), "prompt is a number; expected a text, or a list of messages"),
        (a_data_row(True), "prompt is true or false; expected a text, or a list of messages"),
        (a_data_row({"role": "user", "content": "2+2"}), "prompt is an object; expected a text, or a list of messages"),
        (a_data_row(["2+2"]), "message 1 of prompt is a text, '2+2'; expected {"),
        (a_data_row([MESSAGES]), "message 1 of prompt is a list, "),
        (a_data_row([{"type": "text", "text": "2+2"}]), "message 1 of prompt has no role (got type, text); expected {"),
        (a_data_row([{"content": "2+2"}]), "message 1 of prompt has no role (got content); expected {"),
        (a_data_row([{"role": "", "content": "2+2"}]), "message 1 of prompt has no role"),
        (a_data_row([{"role": 3, "content": "2+2"}]), "message 1 of prompt has no role"),
        (
            a_data_row([*MESSAGES, {"role": "user", "content": None}]),
            "message 2 of prompt has content None; expected a text",
        ),
        (a_data_row([{"role": "user"}]), "message 1 of prompt has content None; expected a text"),
        (a_data_row([{"role": "user", "content": 4}]), "message 1 of prompt has content 4; expected a text"),
        (
            a_data_row([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "2+2"}]}]),
            "message 1 of prompt has its content in 2 parts; expected one text (no images, no audio)",
        ),
        (a_data_row([{"role": "user", "content": ""}]), "prompt has only empty messages; expected content"),
        (
            a_data_row(json.dumps(MESSAGES)[:-1]),
            "prompt begins as chat messages in JSON, and is not JSON: Expecting ',' delimiter: "
            "line 1 column 36 (char 35); expected a whole list of messages {",
        ),
        (a_data_row('[{"content": "2+2"}]'), "message 1 of prompt has no role (got content); expected {"),
        ({"prompt": "2+2"}, "no data_source; expected verl's columns (got prompt)"),
        (a_data_row(data_source=5), "data_source is a number, 5; expected a text"),
        (a_data_row(data_source=["sums"]), "data_source is a list, ['sums']; expected a text"),
        ({"prompt": "2+2", "data_source": "sums"}, "no answer; expected reward_model.ground_truth"),
        (a_data_row(reward_model={}), "no answer; expected reward_model.ground_truth"),
        (a_data_row(reward_model="4"), "no answer; expected reward_model.ground_truth"),
        (a_data_row(reward_model={"ground_truth": ""}), "no answer; expected reward_model.ground_truth"),
        (a_data_row(extra_info=["k", 3]), "extra_info is a list, ['k', 3]; expected an object"),
        (a_data_row(extra_info="k"), "extra_info is a text, 'k'; expected an object"),
    ],
)
def test_a_row_of_the_wrong_shape_is_refused_by_its_line(tmp_path: Path, row: Any, sentence: str) -> None:
    path = jsonl(tmp_path, a_data_row(), row)

    with pytest.raises(DataError) as caught:
        rows(path)

    assert str(caught.value).startswith(f"{path}, line 2: {sentence}")


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (a_data_row("2+2\ud83d"), "prompt holds '\\ud83d' at position 3"),
        (a_data_row([{"role": "user", "content": "\udc00"}]), "prompt[0].content holds '\\udc00' at position 0"),
        (a_data_row([*MESSAGES, {"role": "\ud83d", "content": "a"}]), "prompt[1].role holds"),
        (a_data_row(data_source="s\ud83d"), "data_source holds '\\ud83d' at position 1"),
        (a_data_row(reward_model={"ground_truth": "2\ud83d"}), "reward_model.ground_truth holds '\\ud83d' at"),
        (a_data_row(reward_model={"ground_truth": ["2", "\ud83d"]}), "reward_model.ground_truth[1] holds"),
        (a_data_row(extra_info={"a": [{"b": "\ud83d"}]}), "extra_info.a[0].b holds '\\ud83d'"),
        (a_data_row(extra_info={"\ud83d": 1}), "a key of extra_info holds '\\ud83d'"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(tmp_path: Path, row: Any, place: str) -> None:
    path = jsonl(tmp_path, a_data_row(), row)

    with pytest.raises(DataError) as caught:
        rows(path)

    assert str(caught.value).startswith(f"{path}, line 2: {place}")
    assert str(caught.value).endswith("half of a surrogate pair; expected text that UTF-8 can hold")


def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(a_data_row("\U0001f600")))  # as \ud83d\ude00

    assert [row.prompt for row in rows(path)] == ["\U0001f600"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{\n", "not JSON: Expecting property name"),
        (b'{"prompt": "caf\xe9"}\n', "not UTF-8: byte 0xe9 at position 15; expected text in UTF-8"),
        (b'{"prompt": "\xed\xa0\xbd"}\n', "not UTF-8: byte 0xed at position 12"),
        (b'{"prompt": NaN}\n', "not JSON: NaN is no JSON number; expected a number or null"),
        (b'{"prompt": -Infinity}\n', "not JSON: -Infinity is no JSON number"),
        (b'{"prompt": ' + b"[" * 100_000 + b"\n", "too deeply nested; expected verl's columns"),
    ],
)
def test_a_line_that_is_no_json_in_utf8_is_refused_by_its_number(tmp_path: Path, line: bytes, sentence: str) -> None:
    path = jsonl(tmp_path, a_data_row())
    path.write_bytes(path.read_bytes() + line)

    with pytest.raises(DataError) as caught:
        rows(path)

    assert str(caught.value).startswith(f"{path}, line 2: {sentence}")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file; expected prompts in parquet or JSONL"):
        rows(tmp_path / "absent.jsonl")


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows; expected at least one prompt"):
        rows(jsonl(tmp_path))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    path.write_text("not parquet", encoding="utf-8")

    with pytest.raises(DataError, match=r"data\.parquet: not a parquet file"):
        rows(path)


def test_a_parquet_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([a_data_row()] * 100), path)
    whole = path.read_bytes()
    path.write_bytes(whole[4:200].rjust(len(whole) - 8, b"\0") + whole[-8:])

    with pytest.raises(DataError, match=r"data\.parquet: "):
        rows(path)


def test_a_parquet_text_that_is_not_utf8_is_refused_by_its_row(tmp_path: Path) -> None:
    texts = pyarrow.array([b"good", b"\xff\xfe", b"good"], pyarrow.binary()).view(pyarrow.string())
    columns = {"prompt": texts, "data_source": ["sums"] * 3, "reward_model": [{"ground_truth": "4"}] * 3}
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table(columns), path)

    with pytest.raises(DataError, match=r"data\.parquet, row 2: not UTF-8: .*; expected text in UTF-8"):
        rows(path)


def test_an_answer_that_pandas_left_out_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([a_data_row(reward_model={"ground_truth": float("nan")})]), path)

    with pytest.raises(DataError, match=r"row 1: no answer"):
        rows(path)
