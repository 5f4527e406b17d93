"""Following a file that another process writes."""

import json
from pathlib import Path

import pytest

from services.dashboard.history.tail import LineTail


def lines(tail: LineTail) -> list[object]:
    return [fields["n"] for _, fields in tail.read().lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_only_what_is_new_is_read_and_only_whole_lines(path: Path) -> None:
    tail = LineTail(path)
    assert lines(tail) == []

    path.write_text('{"n": 1}\n{"n"')
    assert lines(tail) == [1]
    with path.open("a") as file:
        file.write(': 2}\n{"n": 3}\n')
    assert lines(tail) == [2, 3]
    assert lines(tail) == []


def test_a_long_file_is_read_in_slices(path: Path) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))  # nine bytes a line
    tail = LineTail(path, slice_bytes=20)

    parts = [tail.read() for _ in range(2)]

    assert [[fields["n"] for _, fields in part.lines] for part in parts] == [[0, 1], [2, 3]]
    assert [part.has_more for part in parts] == [True, False]


def test_of_a_file_that_is_long_already_the_end_is_read(path: Path) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))

    assert lines(LineTail(path, start_bytes=20)) == [2, 3]


def test_a_file_that_was_replaced_is_read_anew_and_it_says_so(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')
    tail = LineTail(path)
    first = tail.read()

    replacement = path.with_suffix(".new")
    replacement.write_text('{"n": 1}\n{"n": 7}\n{"n": 8}\n')
    replacement.replace(path)
    second = tail.read()

    assert (first.is_anew, second.is_anew) == (False, True)
    assert [fields["n"] for _, fields in second.lines] == [1, 7, 8]


def test_a_file_that_was_cut_short_is_read_anew(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')
    tail = LineTail(path)
    tail.read()

    path.write_text('{"n": 1}\n')
    assert lines(tail) == [1]


def test_what_is_no_object_is_passed_over(path: Path) -> None:
    path.write_bytes(b'{"n": 1}\nnot json\n[1]\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"n": 2}\n')

    tail = LineTail(path)
    assert lines(tail) == [1, 2]


def test_a_place_names_the_end_of_its_line(path: Path) -> None:
    path.write_text('{"n": 1}\n{"n": 2}\n')

    assert [place for place, _ in LineTail(path).read().lines] == [9, 18]


def test_half_a_surrogate_pair_becomes_a_character_that_can_be_sent(path: Path) -> None:
    path.write_text('{"n": "\\ud83d\\ude00 \\ud83d"}\n')

    (text,) = lines(LineTail(path))
    assert json.dumps(text, ensure_ascii=False).encode() == '"\U0001f600 \ufffd"'.encode()
