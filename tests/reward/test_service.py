"""The serving loop against streams in memory and fake workers."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from services.reward.scorer import Functions, Scorer
from services.reward.service import BusyClock, ScoreHandler
from tests.support.streams import memory_streams
from tppo.codec import decode_inbox_record, encode_reward_request
from tppo.leased_worker import LeasedWorker, WorkerSettings
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.scoring.outcome import Outcome, failed
from tppo.streams import Lease, MemoryStreams, QueueDepth, RequestQueue, StreamsUnavailable

FUNCTIONS = {"sums": "exact", "geometry": "boxed", "mine": "mine.py:f"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Answering:
    """Workers that answer every request alike."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        return self._outcome


class Silent:
    """Workers that never answer, and report each request."""

    def __init__(self) -> None:
        self.requested: asyncio.Queue[str] = asyncio.Queue()

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        self.requested.put_nowait(request.rollout_id)
        return await asyncio.Future[Outcome]()


class Announcements:
    """Keeps what was announced."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Mapping[str, object]] = asyncio.Queue()

    async def __call__(self, status: Mapping[str, object]) -> None:
        self.heard.put_nowait(status)


class Flaky:
    """A queue whose server is unavailable at the first call of each method, and that reports the next."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self._failed: set[str] = set()
        self.renewed = asyncio.Event()
        self.delivery_failed = asyncio.Event()
        self.delivered = asyncio.Event()

    def _fail_once(self, method: str) -> None:
        if method not in self._failed:
            self._failed.add(method)
            raise StreamsUnavailable("connection refused")

    async def put(self, payloads: Sequence[bytes]) -> None:
        await self._queue.put(payloads)

    async def lease(self, worker: str, *, max_count: int, wait_seconds: float) -> list[Lease]:
        self._fail_once("lease")
        return await self._queue.lease(worker, max_count=max_count, wait_seconds=wait_seconds)

    async def renew(self, worker: str, leases: Sequence[Lease]) -> None:
        self._fail_once("renew")
        await self._queue.renew(worker, leases)
        if leases:
            self.renewed.set()

    async def complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        self.delivery_failed.set()
        self._fail_once("complete")
        self.delivered.set()
        return await self._queue.complete(worker, results)

    async def release(self, worker: str, leases: Sequence[Lease]) -> None:
        await self._queue.release(worker, leases)

    async def outstanding(self) -> list[bytes]:
        return await self._queue.outstanding()

    async def depth(self) -> QueueDepth:
        return await self._queue.depth()


NO_WORKERS = Answering(failed("no worker was to be called"))
NOBODY_ATTACHED = Answering(failed("no user's process was to be called"))


def service_on(
    queue: RequestQueue,
    workers: Functions = NO_WORKERS,
    *,
    capacity: int = 8,
    lease_seconds: float = 60.0,
    announce: Announcements | None = None,
) -> LeasedWorker:
    settings = WorkerSettings(name="reward-0", lease_seconds=lease_seconds, capacity=capacity)
    scorer = Scorer(FUNCTIONS, "", workers=workers, attached=NOBODY_ATTACHED)
    handler = ScoreHandler(scorer)
    return LeasedWorker(settings, queue, handler, announce or Announcements(), on_held=handler.note_held)


@asynccontextmanager
async def running(service: LeasedWorker) -> AsyncIterator[None]:
    task = asyncio.create_task(service.run())
    try:
        yield
    finally:
        service.stop()
        await task


async def scores(streams: MemoryStreams, count: int) -> list[Score]:
    """The first `count` scores of the inbox, as soon as they are there."""
    position, found = "0-0", list[Score]()
    while len(found) < count:
        for entry in await streams.inbox.read(position, max_count=count, wait_seconds=1.0):
            position = entry.position
            record = decode_inbox_record(entry.payload)
            assert isinstance(record, Score)
            found.append(record)
    return found


def request(rollout_id: str, data_source: str = "sums", response: str = "# 4", ground_truth: str = "4") -> bytes:
    return encode_reward_request(RewardRequest(rollout_id, 0, data_source, "2+2?", response, ground_truth))


@pytest.fixture
def streams() -> MemoryStreams:
    return memory_streams()


async def test_each_request_is_scored_by_the_function_of_its_data_source(streams: MemoryStreams) -> None:
    workers = Answering(Outcome(ScoreStatus.SCORED, 0.25, {"style": 0.5}))
    await streams.reward_requests.put(
        [request("a"), request("b", "geometry", r"\boxed{5}"), request("c", "mine"), request("d", "sums", "# 5")]
    )

    async with running(service_on(streams.reward_requests, workers)):
        found = {score.rollout_id: score for score in await scores(streams, 4)}

    assert {key: (score.function, score.score) for key, score in found.items()} == {
        "a": ("exact", 1.0),
        "b": ("boxed", 0.0),
        "c": ("mine.py:f", 0.25),
        "d": ("exact", 0.0),
    }
    assert found["c"].components == {"style": 0.5}
    assert await streams.reward_requests.outstanding() == []


async def test_a_data_source_without_a_function_fails_with_the_missing_key(streams: MemoryStreams) -> None:
    await streams.reward_requests.put([request("a", "poems")])

    async with running(service_on(streams.reward_requests)):
        (score,) = await scores(streams, 1)

    assert score.status is ScoreStatus.FAILED
    assert score.error == (
        "no reward function for data source 'poems'; expected one in reward.functions, or reward.default_function"
    )


async def test_scores_survive_a_server_that_is_unavailable_for_a_while(streams: MemoryStreams) -> None:
    await streams.reward_requests.put([request("a"), request("b")])

    async with running(service_on(Flaky(streams.reward_requests))):
        found = await scores(streams, 2)

    assert [score.rollout_id for score in found] == ["a", "b"]
    assert await streams.inbox.length() == 2


async def test_no_more_requests_are_held_than_the_capacity(streams: MemoryStreams) -> None:
    workers = Silent()
    await streams.reward_requests.put([request(name, "mine") for name in "abcde"])

    async with running(service_on(streams.reward_requests, workers, capacity=2)):
        for _ in range(2):
            await workers.requested.get()
        depth = await streams.reward_requests.depth()

    assert (depth.num_leased, depth.num_waiting) == (2, 3)


async def test_a_stop_releases_what_is_not_scored_and_delivers_what_is(streams: MemoryStreams) -> None:
    workers = Silent()
    await streams.reward_requests.put([request("slow", "mine"), request("fast")])

    async with running(service_on(streams.reward_requests, workers)):
        await workers.requested.get()
    taken_over = await streams.reward_requests.lease("reward-1", max_count=9, wait_seconds=0)

    assert [lease.payload for lease in taken_over] == [request("slow", "mine")]
    assert [score.rollout_id for score in await scores(streams, 1)] == ["fast"]


async def test_what_is_held_is_renewed(streams: MemoryStreams) -> None:
    queue = Flaky(streams.reward_requests)
    await streams.reward_requests.put([request("slow", "mine")])

    async with running(service_on(queue, Silent(), lease_seconds=0.03)):
        await queue.renewed.wait()


async def test_a_score_whose_lease_was_lost_is_not_written() -> None:
    now = 0.0
    streams = memory_streams(clock=lambda: now)
    queue = Flaky(streams.reward_requests)
    await queue.put([request("a")])
    service = service_on(queue)

    async with running(service):  # the first delivery fails; before the second another service takes over
        await queue.delivery_failed.wait()
        now = 100.0
        await streams.reward_requests.lease("reward-1", max_count=1, wait_seconds=0)
        await queue.delivered.wait()

    assert await streams.inbox.length() == 0
    assert service.status()["num_leases_lost"] == 1


async def test_the_heartbeat_reports_what_each_function_did(streams: MemoryStreams) -> None:
    announced = Announcements()
    workers = Answering(replace(failed("out of luck"), duration_seconds=2.0))
    await streams.reward_requests.put([request("a"), request("b", response="# 5"), request("c", "mine")])

    async with running(service_on(streams.reward_requests, workers, announce=announced)):
        await scores(streams, 3)
        while (status := await announced.heard.get())["num_held"] or not status["functions"]:
            continue

    functions = status["functions"]
    assert isinstance(functions, dict)
    assert (functions["exact"]["num_scored"], functions["exact"]["mean"]) == (2, 0.5)
    assert functions["mine.py:f"] == {
        "num_scored": 0,
        "num_abstained": 0,
        "num_timed_out": 0,
        "num_failed": 1,
        "mean": None,
        "std": None,
        "p50_seconds": 2.0,
        "p99_seconds": 2.0,
        "last_failures": [
            {"rollout_id": "c", "attempt": 0, "status": "FAILED", "error": "out of luck", "response": "# 4"}
        ],
    }
    assert status["last_error"] == "mine.py:f: FAILED c: out of luck"


def test_only_the_time_with_work_is_busy() -> None:
    clock = Clock()
    busy = BusyClock(clock)

    for moment, is_busy in [(101.0, True), (102.0, True), (104.0, False), (109.0, False), (110.0, True)]:
        clock.now = moment
        busy.note(is_busy=is_busy)
    clock.now = 110.5

    assert busy.seconds() == 3.0 + 0.5


def test_the_busy_time_does_not_run_before_the_first_work() -> None:
    assert BusyClock(Clock()).seconds() == 0.0
