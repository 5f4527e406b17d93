"""The archived inbox: its records after crashes, full disks, restarts and rollbacks."""

from pathlib import Path

import pytest

from learner.persistence.archive import ArchivedInbox, InboxArchive
from learner.persistence.run_identity import begin_incarnation
from tests.support.small_disk import files_of_at_most
from tppo.__main__ import main
from tppo.config import ConfigError
from tppo.streams import InboxEntry, MemoryStreams
from tppo.streams.contract import BEGINNING
from tppo.streams.fence import FencedError


def some(*numbers: int) -> list[InboxEntry]:
    return [InboxEntry(f"{number}-0", b"record %d" % number) for number in numbers]


def test_what_was_appended_is_read_from_any_position(tmp_path: Path) -> None:
    archive = InboxArchive(tmp_path / "inbox")
    archive.append(some(1, 2))
    archive.close_file()
    archive.append(some(3, 12))

    assert list(archive.entries(BEGINNING)) == some(1, 2, 3, 12)
    assert list(archive.entries("2-0")) == some(3, 12)
    assert list(archive.entries("12-0")) == []
    assert sorted(path.name for path in (tmp_path / "inbox").iterdir()) == ["1-0.log", "3-0.log"]


def test_a_run_without_an_archived_inbox_has_no_records_and_nothing_to_cut(tmp_path: Path) -> None:
    archive = InboxArchive(tmp_path / "inbox")

    assert list(archive.entries(BEGINNING)) == []
    assert archive.cut(BEGINNING, tmp_path / "removed") == 0


def test_a_file_that_is_none_of_the_archives_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes.log", "1.log", "x-y.log"):
        (tmp_path / name).write_bytes(b"of somebody else")

    InboxArchive(tmp_path).append(some(1, 2))

    assert list(InboxArchive(tmp_path).entries(BEGINNING)) == some(1, 2)
    assert (tmp_path / "notes.log").read_bytes() == b"of somebody else"


def test_a_duplicate_record_is_not_archived_again(tmp_path: Path) -> None:
    InboxArchive(tmp_path).append(some(1, 2))

    reopened = InboxArchive(tmp_path)
    reopened.append(some(1, 2, 3))

    assert list(reopened.entries(BEGINNING)) == some(1, 2, 3)


def test_a_process_that_has_lost_the_run_archives_nothing(tmp_path: Path) -> None:
    zombie = InboxArchive(tmp_path / "inbox", require_right=begin_incarnation(tmp_path).require_current)
    zombie.append(some(1))
    InboxArchive(tmp_path / "inbox", require_right=begin_incarnation(tmp_path).require_current).append(some(2, 3))

    with pytest.raises(FencedError):
        zombie.append(some(2))

    assert list(InboxArchive(tmp_path / "inbox").entries(BEGINNING)) == some(1, 2, 3)


@pytest.mark.parametrize("num_bytes_lost", [1, 10, 8 + 24])
def test_a_half_written_record_is_cut_off_after_a_crash(tmp_path: Path, num_bytes_lost: int) -> None:
    InboxArchive(tmp_path).append(some(1, 2))
    path = tmp_path / "1-0.log"
    path.write_bytes(path.read_bytes()[:-num_bytes_lost])

    archive = InboxArchive(tmp_path)
    assert list(archive.entries(BEGINNING)) == some(1)
    archive.append(some(2, 3))

    assert list(InboxArchive(tmp_path).entries(BEGINNING)) == some(1, 2, 3)


def test_a_cut_moves_later_records_to_another_folder(tmp_path: Path) -> None:
    archive = InboxArchive(tmp_path / "inbox")
    archive.append(some(1, 2))
    archive.close_file()
    archive.append(some(3, 4))
    archive.close_file()
    archive.append(some(5))

    assert InboxArchive(tmp_path / "inbox").cut("3-0", tmp_path / "removed") == 2

    reopened = InboxArchive(tmp_path / "inbox")
    assert (list(reopened.entries(BEGINNING)), reopened.last) == (some(1, 2, 3), "3-0")
    assert list(InboxArchive(tmp_path / "removed").entries(BEGINNING)) == some(4, 5)


async def test_the_inbox_is_archived_before_it_is_trimmed(tmp_path: Path) -> None:
    inbox = MemoryStreams(lease_seconds=60).inbox
    kept = ArchivedInbox(inbox, InboxArchive(tmp_path))
    await inbox.append([b"a", b"b"])

    await kept.read(BEGINNING, max_count=9, wait_seconds=0)
    await kept.trim("2-0")

    assert await inbox.length() == 0
    assert [entry.payload for entry in InboxArchive(tmp_path).entries(BEGINNING)] == [b"a", b"b"]


async def test_records_that_redis_has_lost_are_read_from_the_archive(tmp_path: Path) -> None:
    inbox = MemoryStreams(lease_seconds=60).inbox
    await inbox.append([b"a", b"b"])
    await ArchivedInbox(inbox, InboxArchive(tmp_path)).read(BEGINNING, max_count=9, wait_seconds=0)
    await inbox.trim("2-0")  # a server that came back without its last second
    await inbox.append([b"c"])

    reopened = ArchivedInbox(inbox, InboxArchive(tmp_path))
    first = await reopened.read("1-0", max_count=9, wait_seconds=0)
    second = await reopened.read(first[-1].position, max_count=9, wait_seconds=0)

    assert [entry.payload for entry in (*first, *second)] == [b"b", b"c"]


async def test_the_last_position_is_also_of_records_that_redis_has_lost(tmp_path: Path) -> None:
    streams = MemoryStreams(lease_seconds=60)
    inbox = ArchivedInbox(streams.inbox, InboxArchive(tmp_path / "inbox"))
    assert await inbox.last() == BEGINNING
    await inbox.append([b"a", b"b"])
    assert await inbox.last() == "2-0"

    await inbox.read(BEGINNING, max_count=9, wait_seconds=0)
    await streams.inbox.trim("2-0")

    assert await inbox.last() == "2-0"
    assert await ArchivedInbox(streams.inbox, InboxArchive(tmp_path / "inbox")).last() == "2-0"


async def test_records_that_a_full_disk_refused_are_not_trimmed(tmp_path: Path) -> None:
    inbox = MemoryStreams(lease_seconds=60).inbox
    kept = ArchivedInbox(inbox, InboxArchive(tmp_path))
    await inbox.append([bytes(100), b"b"])

    with files_of_at_most(64):
        entries = await kept.read(BEGINNING, max_count=9, wait_seconds=0)
        with pytest.raises(OSError, match=r"large|full"):
            await kept.trim("2-0")
    assert (len(entries), await inbox.length()) == (2, 2)

    await kept.trim("2-0")
    assert [len(entry.payload) for entry in InboxArchive(tmp_path).entries(BEGINNING)] == [100, 1]


async def test_records_that_a_full_disk_refused_before_a_restart_are_archived_later(tmp_path: Path) -> None:
    inbox = MemoryStreams(lease_seconds=60).inbox
    await inbox.append([b"a", bytes(100), b"c"])
    before = ArchivedInbox(inbox, InboxArchive(tmp_path))
    await before.read(BEGINNING, max_count=1, wait_seconds=0)
    with files_of_at_most(64):
        await before.read("1-0", max_count=9, wait_seconds=0)
    await inbox.append([b"d"])

    restarted = ArchivedInbox(inbox, InboxArchive(tmp_path))
    entries = await restarted.read("3-0", max_count=9, wait_seconds=0)  # from the checkpoint's position

    assert [entry.payload for entry in entries] == [b"d"]
    assert [len(entry.payload) for entry in InboxArchive(tmp_path).entries(BEGINNING)] == [1, 100, 1, 1]


async def test_nothing_is_trimmed_that_the_archive_does_not_hold(tmp_path: Path) -> None:
    inbox = MemoryStreams(lease_seconds=60).inbox
    await inbox.append([b"a", b"b", b"c"])

    await ArchivedInbox(inbox, InboxArchive(tmp_path)).trim("2-0")

    assert await inbox.length() == 1
    assert [entry.payload for entry in InboxArchive(tmp_path).entries(BEGINNING)] == [b"a", b"b"]


async def test_a_record_is_in_the_file_when_it_is_read(tmp_path: Path) -> None:
    inbox = MemoryStreams(lease_seconds=60).inbox
    await inbox.append([b"a", b"b"])

    entries = await ArchivedInbox(inbox, InboxArchive(tmp_path)).read(BEGINNING, max_count=9, wait_seconds=0)

    assert list(InboxArchive(tmp_path).entries(BEGINNING)) == entries


async def test_two_readers_of_the_files_each_get_every_record(tmp_path: Path) -> None:
    archive = InboxArchive(tmp_path)
    archive.append(some(1, 2, 3))
    archive.close_file()
    archive.append(some(4, 5))
    kept = ArchivedInbox(MemoryStreams(lease_seconds=60).inbox, archive)

    positions, found = [BEGINNING, BEGINNING], [[], []]  # type: ignore[var-annotated]
    for reader in (0, 1, 1, 0, 1, 0):
        entries = await kept.read(positions[reader], max_count=2, wait_seconds=0)
        found[reader] += entries
        positions[reader] = entries[-1].position

    assert found == [some(1, 2, 3, 4, 5), some(1, 2, 3, 4, 5)]


def test_a_record_that_comes_twice_at_once_is_archived_once(tmp_path: Path) -> None:
    InboxArchive(tmp_path).append(some(1, 2, 1, 2, 3))

    assert list(InboxArchive(tmp_path).entries(BEGINNING)) == some(1, 2, 3)


def test_a_damaged_record_in_the_middle_is_one_sentence_and_no_gap(tmp_path: Path) -> None:
    archive = InboxArchive(tmp_path)
    archive.append(some(1, 2))
    archive.close_file()
    archive.append(some(3))
    path = tmp_path / "1-0.log"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"1-0\.log: a damaged record at byte 32; expected a whole archived inbox"):
        list(InboxArchive(tmp_path).entries(BEGINNING))
    assert list(InboxArchive(tmp_path).entries("3-0")) == []


def test_a_run_without_an_archived_inbox_is_not_replayed_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = '[model]\npath = "model"\n[data]\ntrain_files = ["train.jsonl"]\n'
    (tmp_path / "config.toml").write_text(settings)

    assert main(["replay", str(tmp_path)]) == 2

    assert "holds no archived inbox; expected a run with run.archive_inbox = true" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
