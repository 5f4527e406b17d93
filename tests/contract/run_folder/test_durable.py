"""Writes that a crash or a full disk cannot leave half done."""

from pathlib import Path

import pytest

from tests.support.small_disk import files_of_at_most
from tppo.run_folder.durable import append_whole, replacement_of, write_atomically


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"the old content")
    write_atomically(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")

    with files_of_at_most(8), pytest.raises(OSError, match="large"):
        write_atomically(tmp_path / "file", bytes(9))

    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_full_disk_appends_all_or_nothing(tmp_path: Path) -> None:
    append_whole(tmp_path / "file", b"12345")

    with files_of_at_most(8), pytest.raises(OSError, match=r"large|space"):
        append_whole(tmp_path / "file", b"67890")

    assert (tmp_path / "file").read_bytes() == b"12345"


def test_a_writer_that_lost_its_right_meanwhile_replaces_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise PermissionError

    write_atomically(tmp_path / "file", b"the successor's")

    with pytest.raises(PermissionError), replacement_of(tmp_path / "file", before_replacing=lost) as file:
        file.write(b"mine")

    assert (tmp_path / "file").read_bytes() == b"the successor's"


def test_a_record_that_cannot_be_forced_to_the_disk_is_an_error() -> None:
    append_whole(Path("/dev/null"), b"record")

    with pytest.raises(OSError, match="Invalid argument"):  # of fsync, which /dev/null does not know
        append_whole(Path("/dev/null"), b"record", is_synced=True)
