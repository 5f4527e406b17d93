"""Files of JSON lines that one process writes while others read them."""

import json
import math
from pathlib import Path

import pytest

from tests.support.small_disk import files_of_at_most
from tppo.run_folder.json_lines import JsonLinesFollower, JsonLinesWriter, read_objects


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def numbers(follower: JsonLinesFollower) -> list[object]:
    return [fields["n"] for _, fields in follower.read().lines]


def test_only_new_and_whole_lines_are_read(path: Path) -> None:
    follower = JsonLinesFollower(path)
    assert numbers(follower) == []

    path.write_text('{"n": 1}\n{"n"')
    assert numbers(follower) == [1]
    with path.open("a") as file:
        file.write(': 2}\n{"n": 3}\n')
    assert numbers(follower) == [2, 3]
    assert numbers(follower) == []


def test_a_long_file_is_read_in_slices(path: Path) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))  # nine bytes a line
    follower = JsonLinesFollower(path, slice_bytes=20)

    parts = [follower.read() for _ in range(2)]

    assert [[fields["n"] for _, fields in part.lines] for part in parts] == [[0, 1], [2, 3]]
    assert [part.has_more for part in parts] == [True, False]


def test_all_that_is_new_can_be_read_at_once(path: Path) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))

    whole = JsonLinesFollower(path, slice_bytes=20).read_all()

    assert [fields["n"] for _, fields in whole.lines] == [0, 1, 2, 3]
    assert not whole.has_more


def test_of_a_file_that_is_long_already_the_end_is_read(path: Path) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))

    assert numbers(JsonLinesFollower(path, start_bytes=20)) == [2, 3]


def test_a_replaced_file_is_read_from_its_beginning_and_marked_as_replaced(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')
    follower = JsonLinesFollower(path)
    first = follower.read()

    replacement = path.with_suffix(".new")
    replacement.write_text('{"n": 1}\n{"n": 7}\n{"n": 8}\n')
    replacement.replace(path)
    second = follower.read()

    assert (first.is_replaced, second.is_replaced) == (False, True)
    assert [fields["n"] for _, fields in second.lines] == [1, 7, 8]


def test_a_file_rewritten_in_place_is_read_from_its_beginning(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')
    follower = JsonLinesFollower(path)
    follower.read()

    path.write_text('{"n": 1}\n{"n": 7}\n{"n": 8}\n')
    second = follower.read()

    assert second.is_replaced
    assert [fields["n"] for _, fields in second.lines] == [1, 7, 8]


def test_a_file_cut_short_is_read_from_its_beginning(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')
    follower = JsonLinesFollower(path)
    follower.read()

    path.write_text('{"n": 1}\n')
    assert numbers(follower) == [1]


def test_torn_and_foreign_lines_are_left_out(path: Path) -> None:
    path.write_bytes(b'{"n": 1}\nnot json\n[1]\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"n": 2}\n{"n": 3')

    assert numbers(JsonLinesFollower(path)) == [1, 2]
    assert read_objects(path) == [{"n": 1}, {"n": 2}]


def test_the_first_and_the_last_lines_can_be_read_alone(path: Path) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))

    assert read_objects(path, first_bytes=20) == [{"n": 0}, {"n": 1}]
    assert read_objects(path, last_bytes=20) == [{"n": 2}, {"n": 3}]


def test_a_missing_file_has_no_lines(path: Path) -> None:
    assert read_objects(path) == []
    assert JsonLinesFollower(path).read_all().lines == []


def test_the_position_of_a_line_is_its_end(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')

    assert [position for position, _ in JsonLinesFollower(path).read().lines] == [9, 18]


def test_half_a_surrogate_pair_becomes_a_character_that_can_be_sent(path: Path) -> None:
    path.write_text('{"n": "\\ud83d\\ude00 \\ud83d"}\n')

    (text,) = numbers(JsonLinesFollower(path))
    assert json.dumps(text, ensure_ascii=False).encode() == '"\U0001f600 \ufffd"'.encode()


def test_lines_that_a_full_disk_refused_are_written_with_the_next_ones(path: Path) -> None:
    writer = JsonLinesWriter(path)
    writer.append([{"n": 1}])

    with files_of_at_most(12):
        writer.append([{"n": 2}])
        assert writer.last_error.startswith("journal.jsonl: ")
        assert path.read_text() == '{"n": 1}\n'
    writer.append([{"n": 3}])

    assert path.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    assert writer.last_error == ""


def test_a_writer_does_not_continue_the_torn_line_of_its_predecessor(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n"')

    JsonLinesWriter(path).append([{"n": 2}])

    assert read_objects(path) == [{"n": 1}, {"n": 2}]


def test_numbers_that_json_lacks_become_null(path: Path) -> None:
    JsonLinesWriter(path).append([{"n": math.nan, "m": math.inf}])

    assert read_objects(path) == [{"n": None, "m": None}]


def test_a_writer_that_lost_its_right_writes_nothing(path: Path) -> None:
    def lost() -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        JsonLinesWriter(path, require_right=lost).append([{"n": 1}])

    assert not path.exists()
