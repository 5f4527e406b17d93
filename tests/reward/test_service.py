"""Reward requests served on streams in memory by fake workers."""

import asyncio
from dataclasses import replace

import pytest

from services.reward.scorer import Functions, Scorer
from services.reward.service import BusyClock, ScoreHandler
from services.reward.verifiers.answers import stated_answer
from tests.support.leased_worker import Heartbeats, ObservedQueue, running
from tests.support.outstanding import outstanding
from tests.support.streams import inbox_records, memory_streams
from tppo.codec import encode_reward_request
from tppo.process.leased_worker import LeasedWorker, WorkerSettings
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.scoring.outcome import Outcome, failed
from tppo.streams import MemoryStreams, RequestQueue

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


METHODS = ("lease", "renew", "complete")
NO_WORKERS = Answering(failed("no worker was to be called"))
NOBODY_ATTACHED = Answering(failed("no user's process was to be called"))


def service_on(
    queue: RequestQueue,
    workers: Functions = NO_WORKERS,
    *,
    capacity: int = 8,
    lease_seconds: float = 60.0,
    heartbeats: Heartbeats | None = None,
) -> LeasedWorker:
    settings = WorkerSettings(name="reward-0", lease_seconds=lease_seconds, capacity=capacity)
    scorer = Scorer(FUNCTIONS, "", workers=workers, attached=NOBODY_ATTACHED)
    handler = ScoreHandler(scorer)
    return LeasedWorker(settings, queue, handler, heartbeats or Heartbeats(), on_held=handler.note_held)


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
        found = {score.rollout_id: score for score in await inbox_records(streams, Score, 4)}

    assert {key: (score.function, score.score) for key, score in found.items()} == {
        "a": ("exact", 1.0),
        "b": ("boxed", 0.0),
        "c": ("mine.py:f", 0.25),
        "d": ("exact", 0.0),
    }
    assert found["c"].components == {"style": 0.5}
    assert await outstanding(streams.reward_requests) == []


async def test_the_score_of_an_evaluation_names_the_answer_that_the_response_states(streams: MemoryStreams) -> None:
    evaluated = RewardRequest("a", 0, "sums", "2+2?", r"\boxed{\frac{8}{2}} # 4", "4", is_evaluation=True)
    await streams.reward_requests.put([encode_reward_request(evaluated), request("b")])

    async with running(service_on(streams.reward_requests)):
        found = {score.rollout_id: score for score in await inbox_records(streams, Score, 2)}

    assert (found["a"].answer, found["b"].answer) == ("4", "")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{ 1{,}000 }.", "1000"),
        ("therefore #### 42", "42"),
        (r"\boxed{0.50}", "1/2"),
        (r"\boxed{x + 1}", "x+1"),
        ("forty-two", ""),
        (r"\boxed{", ""),
        ("# " + "7" * 2000, ""),
    ],
)
def test_an_answer_is_compared_without_what_does_not_change_its_meaning(response: str, answer: str) -> None:
    assert stated_answer(response) == answer


async def test_a_data_source_without_a_function_fails_with_the_missing_key(streams: MemoryStreams) -> None:
    await streams.reward_requests.put([request("a", "poems")])

    async with running(service_on(streams.reward_requests)):
        (score,) = await inbox_records(streams, Score, 1)

    assert score.status is ScoreStatus.FAILED
    assert score.error == (
        "no reward function for data source 'poems'; expected one in reward.functions, or reward.default_function"
    )


async def test_scores_survive_a_server_that_is_unavailable_for_a_while(streams: MemoryStreams) -> None:
    await streams.reward_requests.put([request("a"), request("b")])

    async with running(service_on(ObservedQueue(streams.reward_requests, fails_first=METHODS))):
        found = await inbox_records(streams, Score, 2)

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
    assert [score.rollout_id for score in await inbox_records(streams, Score, 1)] == ["fast"]


async def test_what_is_held_is_renewed(streams: MemoryStreams) -> None:
    queue = ObservedQueue(streams.reward_requests, fails_first=METHODS)
    await streams.reward_requests.put([request("slow", "mine")])

    async with running(service_on(queue, Silent(), lease_seconds=0.03)):
        renewed = await queue.renewals.get()

    assert [lease.payload for lease in renewed] == [request("slow", "mine")]


async def test_a_score_whose_lease_was_lost_is_not_written() -> None:
    now = 0.0
    streams = memory_streams(clock=lambda: now)
    queue = ObservedQueue(streams.reward_requests, fails_first=METHODS)
    await queue.put([request("a")])
    service = service_on(queue)

    async with running(service):  # the first delivery fails; before the second another service takes over
        while await queue.failures.get() != "complete":
            continue
        now = 100.0
        await streams.reward_requests.lease("reward-1", max_count=1, wait_seconds=0)
        await queue.deliveries.get()

    assert await streams.inbox.length() == 0
    assert service.status()["num_leases_lost"] == 1


async def test_the_heartbeat_reports_what_each_function_did(streams: MemoryStreams) -> None:
    heartbeats = Heartbeats()
    workers = Answering(replace(failed("out of luck"), duration_seconds=2.0))
    await streams.reward_requests.put([request("a"), request("b", response="# 5"), request("c", "mine")])

    async with running(service_on(streams.reward_requests, workers, heartbeats=heartbeats)):
        await inbox_records(streams, Score, 3)
        while (status := await heartbeats.sent.get())["num_held"] or not status["functions"]:
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


@pytest.mark.parametrize("poison", [bytes.fromhex("9f1c55e2077ab3d4c8ff"), b""])
async def test_a_request_that_cannot_be_decoded_is_a_dead_letter_and_the_next_is_scored(
    streams: MemoryStreams, poison: bytes
) -> None:
    await streams.reward_requests.put([poison, request("sound")])
    service = service_on(streams.reward_requests)

    async with running(service):
        (score,) = await inbox_records(streams, Score, 1)

    (letter,) = await streams.dead_letters.newest(9)
    assert score.rollout_id == "sound"
    assert (letter.source, letter.payload) == ("reward_requests", poison)
    assert (await outstanding(streams.reward_requests), service.status()["num_rejected"]) == ([], 1)
