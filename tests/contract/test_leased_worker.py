"""What every worker of a request queue promises, whatever its handler does."""

import asyncio
from collections.abc import Mapping

import pytest

from tests.support.leased_worker import Heartbeats, after_deaths, running
from tests.support.outstanding import outstanding
from tests.support.streams import inbox_entries, memory_streams
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.leased_worker import HandedBackError, LeasedWorker, WorkerSettings
from tppo.streams import MemoryStreams


class Upper:
    """Answers a request with its capital letters; waits for `gate` when the request says so."""

    def __init__(self, *, is_ready: bool = True) -> None:
        self.is_ready = asyncio.Event()
        if is_ready:
            self.is_ready.set()
        self.gate = asyncio.Event()
        self.begun: asyncio.Queue[bytes] = asyncio.Queue()

    async def ready(self) -> None:
        await self.is_ready.wait()

    async def handle(self, payload: bytes) -> bytes:
        self.begun.put_nowait(payload)
        if payload.startswith(b"slow"):
            await self.gate.wait()
        if payload == b"back" and self.begun.qsize() < 3:
            raise HandedBackError("not now")
        if payload == b"broken":
            raise RuntimeError("the handler is broken")
        return payload.upper()

    def refuse(self, payload: bytes, cause: str) -> bytes:
        return payload + b": " + cause.encode()

    def status(self) -> Mapping[str, object]:
        return {"num_begun": self.begun.qsize()}


@pytest.fixture
def streams() -> MemoryStreams:
    return memory_streams()


def worker_on(
    streams: MemoryStreams,
    handler: Upper,
    *,
    capacity: int = 4,
    isolates_suspects: bool = False,
    heartbeats: Heartbeats | None = None,
    held: list[int] | None = None,
) -> LeasedWorker:
    settings = WorkerSettings(
        name="worker-0", lease_seconds=60.0, capacity=capacity, isolates_suspects=isolates_suspects
    )
    on_held = (held if held is not None else []).append
    return LeasedWorker(settings, streams.window_requests, handler, heartbeats or Heartbeats(), on_held=on_held)


async def records(streams: MemoryStreams, count: int) -> list[bytes]:
    """The first records of the inbox, as soon as there are so many."""
    return [entry.payload for entry in await inbox_entries(streams, count)]


async def test_each_request_is_answered_by_one_record(streams: MemoryStreams) -> None:
    await streams.window_requests.put([b"a", b"b"])

    async with running(worker_on(streams, Upper())):
        found = await records(streams, 2)

    assert found == [b"A", b"B"]
    assert await outstanding(streams.window_requests) == []


async def test_a_request_that_is_handed_back_is_served_later_as_if_never_delivered(streams: MemoryStreams) -> None:
    class Reluctant(Upper):
        async def handle(self, payload: bytes) -> bytes:
            if self.begun.empty():
                self.begun.put_nowait(payload)
                raise HandedBackError("not now")
            return payload.upper()

    worker = worker_on(streams, Reluctant())
    await streams.window_requests.put([b"a", b"b"])

    async with running(worker):
        found = await records(streams, 2)
        status = worker.status()

    assert sorted(found) == [b"A", b"B"]
    assert (status["num_handed_back"], status["num_leases_lost"]) == (1, 0)


async def test_nothing_is_leased_while_the_handler_is_not_ready(streams: MemoryStreams) -> None:
    class Awaited(Upper):
        def __init__(self) -> None:
            super().__init__()
            self.is_awaited = asyncio.Event()

        async def ready(self) -> None:
            if not self.is_ready.is_set():
                self.is_awaited.set()
            await super().ready()

    handler = Awaited()
    await streams.window_requests.put([b"a"])

    async with running(worker_on(streams, handler)):
        await records(streams, 1)
        handler.is_ready.clear()
        await handler.is_awaited.wait()  # a look for requests that was under way is over
        await streams.window_requests.put([b"b"])
        await asyncio.sleep(0.05)
        assert (await streams.window_requests.depth()).num_waiting == 1
        handler.is_ready.set()
        assert await records(streams, 2) == [b"A", b"B"]


async def test_nothing_is_leased_before_the_handler_is_ready(streams: MemoryStreams) -> None:
    handler, heartbeats = Upper(is_ready=False), Heartbeats()
    await streams.window_requests.put([b"a"])

    async with running(worker_on(streams, handler, heartbeats=heartbeats)):
        await heartbeats.sent.get()  # the loops run
        num_leased = (await streams.window_requests.depth()).num_leased
        handler.is_ready.set()
        await records(streams, 1)

    assert num_leased == 0


async def test_no_more_than_the_capacity_is_held(streams: MemoryStreams) -> None:
    handler, held = Upper(), list[int]()
    await streams.window_requests.put([b"slow 1", b"slow 2", b"slow 3"])

    async with running(worker_on(streams, handler, capacity=2, held=held)):
        await handler.begun.get()
        await handler.begun.get()
        depth = await streams.window_requests.depth()
        handler.gate.set()
        await records(streams, 3)

    assert (depth.num_leased, depth.num_waiting) == (2, 1)
    assert (max(held), held[-1]) == (2, 0)


async def test_a_stop_delivers_what_is_done_and_releases_the_rest(streams: MemoryStreams) -> None:
    handler = Upper()
    await streams.window_requests.put([b"slow", b"quick"])

    async with running(worker_on(streams, handler)):
        while await handler.begun.get() != b"quick":
            pass
    released = await streams.window_requests.lease("worker-1", max_count=9, wait_seconds=0)

    assert await records(streams, 1) == [b"QUICK"]
    assert [(lease.payload, lease.num_deliveries) for lease in released] == [(b"slow", 1)]


async def test_a_request_that_every_worker_died_over_is_refused_unserved(streams: MemoryStreams) -> None:
    handler = Upper()
    await streams.window_requests.put([b"poison"])

    async with running(worker_on(await after_deaths(streams, "worker-0", 3), handler)):
        found = await records(streams, 1)

    assert found == [b"poison: 3 workers ended while serving this request"]
    assert handler.begun.empty()


@pytest.mark.parametrize(("isolates_suspects", "num_leased"), [(True, 1), (False, 2)])
async def test_a_suspect_is_served_alone_where_that_is_asked(
    streams: MemoryStreams, isolates_suspects: bool, num_leased: int
) -> None:
    handler = Upper()
    await streams.window_requests.put([b"slow suspect", b"slow neighbour"])

    async with running(
        worker_on(await after_deaths(streams, "worker-0", 2), handler, isolates_suspects=isolates_suspects)
    ):
        first = await handler.begun.get()
        depth = await streams.window_requests.depth()
        handler.gate.set()
        await records(streams, 2)

    assert first == b"slow suspect"
    assert depth.num_leased == num_leased


async def test_heartbeats_count_and_outlive_one_that_failed(
    streams: MemoryStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tppo.process.presence.HEARTBEAT_SECONDS", 0.01)
    heartbeats = Heartbeats(num_failures=1)

    async with running(worker_on(streams, Upper(), heartbeats=heartbeats)):
        status = await heartbeats.sent.get()

    counts = ("num_begun", "num_held", "num_leases_lost", "num_rejected", "num_handed_back")
    assert status == {"capacity": 4, **dict.fromkeys(counts, 0)}


async def test_a_handler_that_breaks_ends_the_worker(streams: MemoryStreams) -> None:
    await streams.window_requests.put([b"broken"])

    with pytest.raises(ExceptionGroup) as raised:
        await worker_on(streams, Upper()).run()

    assert raised.group_contains(RuntimeError, match="the handler is broken")


async def test_a_request_that_is_handed_back_is_leased_again_as_if_never_delivered(streams: MemoryStreams) -> None:
    worker = worker_on(streams, Upper())
    await streams.window_requests.put([b"back"])

    async with running(worker):
        found = await records(streams, 1)

    assert (found, worker.status()["num_handed_back"]) == ([b"BACK"], 2)


def ending_worker(streams: MemoryStreams, handler: Upper, *, hand_over_seconds: float) -> LeasedWorker:
    """One whose handler answers everything under way at a stop."""

    async def answer_all() -> None:
        handler.gate.set()

    settings = WorkerSettings(name="worker-0", lease_seconds=60.0, capacity=4, hand_over_seconds=hand_over_seconds)
    return LeasedWorker(settings, streams.window_requests, handler, Heartbeats(), hand_over=answer_all)


async def test_at_a_stop_the_requests_under_way_are_handed_over(streams: MemoryStreams) -> None:
    handler = Upper()
    await streams.window_requests.put([b"slow 1", b"slow 2"])

    async with running(ending_worker(streams, handler, hand_over_seconds=DEADLINE_SECONDS)):
        for _ in range(2):
            await handler.begun.get()

    assert sorted(await records(streams, 2)) == [b"SLOW 1", b"SLOW 2"]
    assert await outstanding(streams.window_requests) == []


async def test_what_is_not_handed_over_in_time_is_released(streams: MemoryStreams) -> None:
    handler = Upper()
    handler.gate = asyncio.Event()
    worker = ending_worker(streams, handler, hand_over_seconds=0.01)
    await streams.window_requests.put([b"slow"])

    async with running(worker):
        await handler.begun.get()
        handler.gate.set = lambda: None  # type: ignore[method-assign]  # its answer never comes
    (released,) = await streams.window_requests.lease("worker-1", max_count=9, wait_seconds=0)

    assert (released.payload, released.num_deliveries) == (b"slow", 1)
