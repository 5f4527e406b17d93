"""What becomes of requests and records that no process can use; on both kinds of streams."""

import pytest

from tests.support.outstanding import outstanding
from tppo.streams import QueueDepth, Streams
from tppo.streams.connection import RedisClient
from tppo.streams.contract import (
    BEGINNING,
    MAX_CAUSE_CHARACTERS,
    MAX_DEAD_LETTERS,
    MAX_LETTER_BYTES,
    DeadLetter,
    DeadLetterCount,
)
from tppo.streams.fence import Fence, FencedError
from tppo.streams.redis import RedisStreams


async def test_a_rejected_request_leaves_its_queue_and_becomes_a_dead_letter(streams: Streams) -> None:
    queue = streams.window_requests
    await queue.put([b"poison", b"sound"])
    poison, _ = await queue.lease("w", max_count=9, wait_seconds=0)

    assert await queue.reject("w", poison, "no request") is True

    (letter,) = await streams.dead_letters.newest(9)
    assert letter == DeadLetter("window_requests", poison.entry_id, "no request", b"poison")
    assert await outstanding(queue) == [b"sound"]
    assert await queue.depth() == QueueDepth(num_waiting=0, num_leased=1)
    assert await streams.inbox.read(BEGINNING, max_count=9, wait_seconds=0) == []


async def test_a_worker_that_has_lost_the_lease_rejects_nothing(streams: Streams) -> None:
    queue = streams.reward_requests
    await queue.put([b"poison"])
    (lease,) = await queue.lease("w", max_count=9, wait_seconds=0)

    assert await queue.reject("another", lease, "no request") is False
    assert await outstanding(queue) == [b"poison"]
    assert await streams.dead_letters.count() == DeadLetterCount(num_kept=0, num_dropped=0)


async def test_a_request_that_is_rejected_again_after_a_lost_reply_is_one_dead_letter(streams: Streams) -> None:
    queue = streams.window_requests
    await queue.put([b"poison"])
    (lease,) = await queue.lease("w", max_count=9, wait_seconds=0)

    assert [await queue.reject("w", lease, "no request") for _ in range(2)] == [True, False]
    assert await streams.dead_letters.count() == DeadLetterCount(num_kept=1, num_dropped=0)


async def test_a_record_that_is_read_again_is_written_once(streams: Streams) -> None:
    first, second = (DeadLetter("inbox", place, "cause", b"\xff") for place in ("9-0", "10-0"))

    await streams.dead_letters.add_records([first])
    await streams.dead_letters.add_records([first, second])

    assert await streams.dead_letters.newest(9) == [second, first]


async def test_the_oldest_are_dropped_and_counted(streams: Streams) -> None:
    letters = [DeadLetter("inbox", f"1-{number}", "cause", b"x") for number in range(MAX_DEAD_LETTERS + 3)]

    await streams.dead_letters.add_records(letters)

    assert await streams.dead_letters.count() == DeadLetterCount(MAX_DEAD_LETTERS, num_dropped=3)
    assert await streams.dead_letters.newest(1) == [letters[-1]]


async def test_a_dead_letter_holds_no_more_than_its_share_of_memory(streams: Streams) -> None:
    huge = b"x" * (MAX_LETTER_BYTES + 1)
    await streams.reward_requests.put([huge])
    (lease,) = await streams.reward_requests.lease("w", max_count=1, wait_seconds=0)
    cause = "\ud83d" + "c" * MAX_CAUSE_CHARACTERS

    await streams.dead_letters.add_records([DeadLetter("inbox", "1-0", cause, huge)])
    await streams.reward_requests.reject("w", lease, cause)

    letters = await streams.dead_letters.newest(9)
    assert {(len(letter.payload), len(letter.cause)) for letter in letters} == {
        (MAX_LETTER_BYTES, MAX_CAUSE_CHARACTERS)
    }


@pytest.mark.redis
async def test_a_learner_that_was_replaced_writes_no_dead_letter(redis_client: RedisClient, run_name: str) -> None:
    fence = Fence(redis_client, run_name, host="here", lease_seconds=60.0)
    await fence.acquire(1)
    await fence.acquire(2, dead_incarnation=1)
    replaced = RedisStreams(redis_client, run=run_name, lease_seconds=60.0, incarnation=1)

    with pytest.raises(FencedError):
        await replaced.dead_letters.add_records([DeadLetter("inbox", "1-0", "cause", b"x")])


@pytest.mark.redis
async def test_an_entry_without_a_payload_is_an_empty_request_and_an_empty_record(
    redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=60.0)
    for name in ("window_requests", "inbox"):
        await redis_client.xadd(f"tppo:{{{run_name}}}:{name}", {"other": "field"})

    (lease,) = await streams.window_requests.lease("w", max_count=9, wait_seconds=0)
    (entry,) = await streams.inbox.read(BEGINNING, max_count=9, wait_seconds=0)

    assert (lease.payload, entry.payload, await outstanding(streams.window_requests)) == (b"", b"", [b""])
