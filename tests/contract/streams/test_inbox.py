import asyncio

from tppo.streams import Inbox
from tppo.streams.contract import BEGINNING


async def payloads_behind(inbox: Inbox, position: str, max_count: int = 100) -> list[bytes]:
    return [entry.payload for entry in await inbox.read(position, max_count=max_count, wait_seconds=0)]


async def position_of(inbox: Inbox, payload: bytes) -> str:
    entries = await inbox.read(BEGINNING, max_count=100, wait_seconds=0)
    return next(entry.position for entry in entries if entry.payload == payload)


async def test_entries_come_in_the_order_in_which_they_arrived(inbox: Inbox) -> None:
    await inbox.append([b"a", b"b"])
    await inbox.append([b"c"])

    assert await payloads_behind(inbox, BEGINNING) == [b"a", b"b", b"c"]


async def test_a_read_begins_strictly_after_the_position(inbox: Inbox) -> None:
    await inbox.append([b"a", b"b", b"c"])

    assert await payloads_behind(inbox, await position_of(inbox, b"a")) == [b"b", b"c"]
    assert await payloads_behind(inbox, await position_of(inbox, b"c")) == []


async def test_reading_again_gives_the_same_entries(inbox: Inbox) -> None:
    await inbox.append([b"a", b"b"])

    first = await inbox.read(BEGINNING, max_count=100, wait_seconds=0)

    assert await inbox.read(BEGINNING, max_count=100, wait_seconds=0) == first


async def test_a_read_takes_no_more_than_requested(inbox: Inbox) -> None:
    await inbox.append([b"a", b"b", b"c"])

    assert await payloads_behind(inbox, BEGINNING, max_count=2) == [b"a", b"b"]
    assert await payloads_behind(inbox, BEGINNING, max_count=0) == []


async def test_duplicates_are_kept_for_the_reader_to_drop(inbox: Inbox) -> None:
    await inbox.append([b"a", b"a"])

    assert await payloads_behind(inbox, BEGINNING) == [b"a", b"a"]


async def test_an_empty_inbox_gives_nothing(inbox: Inbox) -> None:
    await inbox.append([])

    assert await inbox.read(BEGINNING, max_count=10, wait_seconds=0.01) == []
    assert await inbox.length() == 0


async def test_a_waiting_reader_gets_what_arrives_meanwhile(inbox: Inbox) -> None:
    waiting = asyncio.create_task(inbox.read(BEGINNING, max_count=10, wait_seconds=2))
    await asyncio.sleep(0)
    await inbox.append([b"a"])

    entries = await waiting or await inbox.read(BEGINNING, max_count=10, wait_seconds=0)

    assert [entry.payload for entry in entries] == [b"a"]


async def test_trimming_deletes_up_to_and_including_the_position(inbox: Inbox) -> None:
    await inbox.append([b"a", b"b", b"c"])

    await inbox.trim(await position_of(inbox, b"b"))

    assert await payloads_behind(inbox, BEGINNING) == [b"c"]
    assert await inbox.length() == 1


async def test_positions_keep_rising_after_a_trim(inbox: Inbox) -> None:
    await inbox.append([b"a"])
    end = await position_of(inbox, b"a")
    await inbox.trim(end)

    await inbox.append([b"b"])

    assert await payloads_behind(inbox, end) == [b"b"]


async def test_trimming_again_or_at_the_beginning_deletes_nothing_more(inbox: Inbox) -> None:
    await inbox.append([b"a", b"b"])
    position = await position_of(inbox, b"a")
    await inbox.trim(BEGINNING)
    await inbox.trim(position)

    await inbox.trim(position)

    assert await payloads_behind(inbox, BEGINNING) == [b"b"]


async def test_the_last_position_is_that_of_the_newest_entry_that_is_left(inbox: Inbox) -> None:
    assert await inbox.last() == BEGINNING

    await inbox.append([b"a", b"b"])
    assert await inbox.last() == await position_of(inbox, b"b")

    await inbox.trim(await position_of(inbox, b"b"))
    assert await inbox.last() == BEGINNING
