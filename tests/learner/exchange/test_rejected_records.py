"""Rejected records become dead letters, once, although Redis was away and although a learner reads its inbox again."""

import asyncio
from collections.abc import Sequence

import pytest

from learner.exchange.inbox import RejectedRecords
from learner.rollouts.border import RejectedError
from tests.learner.builders import a_config, a_manager
from tests.support.waiting import until_answered
from tppo.process.cancellation import cancel_all
from tppo.streams import InboxEntry, MemoryStreams, StreamsUnavailable
from tppo.streams.contract import DeadLetter


@pytest.fixture
def streams() -> MemoryStreams:
    return MemoryStreams(lease_seconds=60)


def rejecting(streams: MemoryStreams) -> RejectedRecords:
    return RejectedRecords(streams, a_manager(a_config()))


async def written(streams: MemoryStreams, rejected: RejectedRecords, count: int) -> list[DeadLetter]:
    serving = asyncio.create_task(rejected.serve())
    letters = await until_answered(
        lambda: streams.dead_letters.newest(99), f"{count} dead letters", is_met=lambda found: len(found) == count
    )
    await cancel_all([serving])
    return letters


async def test_a_rejected_record_is_written_when_redis_is_back(streams: MemoryStreams) -> None:
    add, failures = streams.dead_letters.add_records, [StreamsUnavailable("connection refused")]

    async def failing_first(letters: Sequence[DeadLetter]) -> None:
        if failures:
            raise failures.pop()
        await add(letters)

    streams.dead_letters.add_records = failing_first  # type: ignore[method-assign]
    rejected = rejecting(streams)
    rejected.reject(InboxEntry("7-0", b"\xff"), RejectedError("10 bytes are no record"))

    assert await written(streams, rejected, 1) == [DeadLetter("inbox", "7-0", "10 bytes are no record", b"\xff")]


async def test_a_restarted_learner_that_rejects_its_records_again_adds_the_new_ones_alone(
    streams: MemoryStreams,
) -> None:
    entries = [InboxEntry(f"{number}-0", b"\xff") for number in (7, 8, 9)]
    for entries_read in (entries[:2], entries):
        rejected = rejecting(streams)
        for entry in entries_read:
            rejected.reject(entry, RejectedError("no record"))
        letters = await written(streams, rejected, len(entries_read))

    assert [letter.place for letter in letters] == ["9-0", "8-0", "7-0"]
