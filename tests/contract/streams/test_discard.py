from tests.support.outstanding import outstanding
from tppo.streams import Streams
from tppo.streams.contract import BEGINNING, position_of


async def test_what_is_discarded_is_gone_and_its_workers_write_nothing(streams: Streams) -> None:
    await streams.inbox.append([b"record"])
    await streams.window_requests.put([b"held", b"waiting"])
    await streams.reward_requests.put([b"score"])
    (lease,) = await streams.window_requests.lease("w1", max_count=1, wait_seconds=0)

    assert await streams.discard() == 4

    assert await streams.window_requests.complete("w1", [(lease, b"late")]) == [False]
    assert await outstanding(streams.window_requests) == await outstanding(streams.reward_requests) == []
    assert await streams.inbox.length() == 0


async def test_after_a_discard_positions_go_on_rising(streams: Streams) -> None:
    await streams.inbox.append([b"old"])
    (old,) = await streams.inbox.read(BEGINNING, max_count=1, wait_seconds=0)
    await streams.discard()

    await streams.inbox.append([b"new"])
    await streams.window_requests.put([b"a"])

    (new,) = await streams.inbox.read(old.position, max_count=9, wait_seconds=0)
    assert (new.payload, position_of(new.position) > position_of(old.position)) == (b"new", True)
    assert [lease.payload for lease in await streams.window_requests.lease("w", max_count=9, wait_seconds=0)] == [b"a"]
