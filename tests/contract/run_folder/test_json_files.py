"""Small files of one JSON object: read with care, whatever they hold."""

from pathlib import Path

import pytest

from tests.support.damage import DAMAGES, damage
from tppo.run_folder.json_files import DamagedFileError, fits, read_object, write_object

NEEDED = {"step": int, "accuracy": float, "name": str}
FIELDS = {"step": 5, "accuracy": 1, "name": "x", "more": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "facts.json"


def test_what_was_written_is_read(path: Path) -> None:
    write_object(path, FIELDS)

    assert read_object(path, NEEDED) == FIELDS


def test_a_missing_file_has_no_object(path: Path) -> None:
    assert read_object(path, NEEDED) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_one_sentence_that_names_it(path: Path, kind: str) -> None:
    write_object(path, FIELDS)
    damage(path, kind)

    with pytest.raises(DamagedFileError) as refusal:
        read_object(path, NEEDED)

    sentence = str(refusal.value)
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith("; expected a JSON object with step, accuracy, name")
    assert "\n" not in sentence
    assert len(sentence) < 400


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\0\0\0", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b'{"step": 5', "is not JSON (Expecting ',' delimiter: line 1 column 11 (char 10))"),
        (b"[1]", "holds a list"),
        (b"null", "holds null"),
        (b'{"step": 5, "name": "x"}', "lacks 'accuracy'"),
        (b'{"step": "5", "accuracy": 1, "name": "x"}', "step is '5' instead of a whole number"),
        (b'{"step": true, "accuracy": 1, "name": "x"}', "step is 'True' instead of a whole number"),
        (b'{"step": 5, "accuracy": NaN, "name": "x"}', "accuracy is 'None' instead of a number"),
        (b'{"step": 5, "accuracy": 1e400, "name": "x"}', "accuracy is 'None' instead of a number"),
    ],
)
def test_the_sentence_says_what_is_wrong(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)

    with pytest.raises(DamagedFileError) as refusal:
        read_object(path, NEEDED)

    assert str(refusal.value) == f"{path}: {complaint}; expected a JSON object with step, accuracy, name"


def test_a_folder_in_the_files_place_is_a_sentence_too(path: Path) -> None:
    path.mkdir()

    with pytest.raises(DamagedFileError, match=r"facts\.json: cannot be read: Is a directory; expected a JSON object"):
        read_object(path, {})


def test_what_cannot_be_written_as_json_leaves_the_old_file(path: Path) -> None:
    write_object(path, FIELDS)

    with pytest.raises(ValueError, match="JSON compliant"):
        write_object(path, {"step": float("inf")})

    assert read_object(path, NEEDED) == FIELDS


def test_an_optional_field_may_be_null_but_not_missing() -> None:
    assert fits({"score": None}, {"score": float | None})
    assert fits({"score": 0.5}, {"score": float | None})
    assert not fits({"score": "x"}, {"score": float | None})
    assert not fits({}, {"score": float | None})
