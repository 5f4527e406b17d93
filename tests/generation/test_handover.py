"""Windows that are handed over: at the end of a generator, and when they take longer than their bound."""

import asyncio
import time
from collections import Counter

import pytest

from services.generation.engine import OnTokens, RunningWindow
from services.generation.fleet.fleet_pace import FleetPace, Speed
from services.generation.fleet.handover import Handover
from tests.generation.fake_engine import FakeEngine
from tests.generation.serving import ask, service_on
from tests.generation.tiny_models import a_request
from tests.support.leased_worker import Heartbeats, ObservedQueue, running
from tests.support.outstanding import outstanding
from tests.support.streams import inbox_records, memory_streams
from tppo.process.leased_worker import HandedBackError
from tppo.process.presence import Presence, this_process
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens
from tppo.streams import MemoryStreams

SOON = 0.01  # seconds
REQUEST = a_request("slow", max_new_tokens=100)


@pytest.fixture
def streams() -> MemoryStreams:
    return memory_streams()


async def test_at_a_stop_the_running_windows_are_posted_short_and_nothing_stays_behind(streams: MemoryStreams) -> None:
    engine = FakeEngine(is_instant=False)
    await ask(streams, a_request("a"), a_request("b", is_evaluation=True))

    async with running(service_on(streams.window_requests, engine, handover=Handover(engine))):
        for _ in range(2):
            await engine.asked.get()

    windows = await inbox_records(streams, Window, 2)
    assert {window.rollout_id: list(window.tokens) for window in windows} == {"a": [7, 8], "b": [7, 8]}
    assert {window.finish_reason for window in windows} == {FinishReason.CUT}
    assert await outstanding(streams.window_requests) == []


@pytest.mark.parametrize(("num_tokens", "is_posted"), [(0, False), (2, False), (3, True)])
async def test_a_window_with_no_more_tokens_than_the_ignored_tail_is_released(
    streams: MemoryStreams, num_tokens: int, is_posted: bool
) -> None:
    engine = FakeEngine(is_instant=False)
    engine.num_tokens_when_cut = num_tokens
    await ask(streams, a_request("a"))

    async with running(
        service_on(streams.window_requests, engine, handover=Handover(engine, num_ignored_tail_tokens=2))
    ):
        await engine.asked.get()

    leases = await streams.window_requests.lease("another", max_count=9, wait_seconds=0)
    assert [lease.num_deliveries for lease in leases] == ([] if is_posted else [1])
    assert await streams.inbox.length() == is_posted


async def test_a_window_of_an_evaluation_is_worth_posting_with_one_token(streams: MemoryStreams) -> None:
    engine = FakeEngine(is_instant=False)
    engine.num_tokens_when_cut = 1
    await ask(streams, a_request("a", is_evaluation=True))

    async with running(
        service_on(streams.window_requests, engine, handover=Handover(engine, num_ignored_tail_tokens=8))
    ):
        await engine.asked.get()

    (window,) = await inbox_records(streams, Window, 1)
    assert (window.finish_reason, len(window.tokens)) == (FinishReason.CUT, 1)


async def test_a_request_that_waits_for_weights_is_released_at_a_stop(streams: MemoryStreams) -> None:
    engine, queue = FakeEngine(), ObservedQueue(streams.window_requests)
    await ask(streams, a_request("newer", min_policy_version=6), a_request("a"))

    async with running(service_on(queue, engine, handover=Handover(engine))):
        await queue.deliveries.get()  # of the second; so the first waits

    (lease,) = await streams.window_requests.lease("another", max_count=9, wait_seconds=0)
    assert lease.num_deliveries == 1


async def test_nothing_begins_once_the_end_has_begun() -> None:
    handover = Handover(FakeEngine())
    await handover.end()

    with pytest.raises(HandedBackError, match="the generator is ending"):
        await handover.window(REQUEST)


def bounded(engine: FakeEngine, seconds: float = SOON, **options: int) -> Handover:
    return Handover(engine, bound_seconds=lambda _: seconds, look_seconds=SOON, **options)


def is_running(engine: FakeEngine, *, num_tokens: int, for_seconds: float) -> None:
    started_at = time.time() - for_seconds
    engine.running = (RunningWindow(0, REQUEST.rollout_id, REQUEST.window_index, started_at, num_tokens),)


async def test_a_window_beyond_its_bound_is_cut() -> None:
    engine = FakeEngine(is_instant=False)
    is_running(engine, num_tokens=2, for_seconds=1.0)

    window = await bounded(engine).window(REQUEST)

    assert window.finish_reason is FinishReason.CUT


async def test_a_window_within_its_bound_runs_to_its_end() -> None:
    engine = FakeEngine(is_instant=False)
    is_running(engine, num_tokens=2, for_seconds=1.0)
    looks = []

    def bound(request: WindowRequest) -> float:
        looks.append(request)
        if len(looks) == 3:
            engine.released.set()
        return 3600.0

    window = await Handover(engine, bound_seconds=bound, look_seconds=SOON).window(REQUEST)

    assert window.finish_reason is FinishReason.LENGTH
    assert len(looks) == 3


@pytest.mark.parametrize(("for_seconds", "is_cut"), [(1.5, False), (2.5, True)])
async def test_a_running_window_gets_as_long_again_for_enough_tokens(for_seconds: float, is_cut: bool) -> None:
    engine = FakeEngine(is_instant=False)
    is_running(engine, num_tokens=1, for_seconds=for_seconds)
    engine.num_tokens_when_cut = 1
    handover = bounded(engine, 1.0, num_ignored_tail_tokens=1)
    task = asyncio.create_task(handover.window(REQUEST))

    if is_cut:
        with pytest.raises(HandedBackError, match="cut after 1 tokens; expected 2 to post it"):
            await task
    else:
        await engine.asked.get()
        await asyncio.sleep(3 * SOON)
        assert not task.done()
        engine.released.set()
        assert (await task).finish_reason is FinishReason.LENGTH


async def test_a_request_that_waits_too_long_for_a_slot_is_handed_back() -> None:
    engine = FakeEngine(is_instant=False)
    engine.num_tokens_when_cut = 0

    with pytest.raises(HandedBackError, match="cut after 0 tokens"):
        await bounded(engine).window(REQUEST)


def a_generator(name: str, seconds_per_token: float | None, kind: str = "generation") -> Presence:
    return this_process(name, kind, status={"seconds_per_token": seconds_per_token})


def an_ended_window(num_tokens: int, seconds: float) -> Window:
    numbers = tokens([1] * num_tokens), logprobs([-1.0] * num_tokens), (VersionSpan(0, num_tokens),)
    return Window("r", 0, *numbers, FinishReason.LENGTH, started_at=100.0, ended_at=100.0 + seconds)


def test_a_window_may_take_twice_as_long_as_with_the_median_of_the_other_generators() -> None:
    pace = FleetPace("slow", "auto", lease_seconds=15.0)
    others = [a_generator("a", 0.1), a_generator("b", 0.2), a_generator("c", 0.3), a_generator("new", None)]
    pace.observe([a_generator("slow", 9.0), *others, a_generator("learner", 5.0, kind="learner")])

    # The median is 0.2 s a token.
    assert pace.bound_seconds(a_request(max_new_tokens=100)) == pytest.approx(40.0)
    assert pace.bound_seconds(a_request(max_new_tokens=10)) == 15.0  # a lease at least


def test_a_generator_alone_has_no_bound() -> None:
    pace = FleetPace("alone", "auto", lease_seconds=15.0)
    pace.observe([a_generator("alone", 0.1), a_generator("new", None)])

    assert pace.bound_seconds(REQUEST) is None


@pytest.mark.parametrize(("configured", "bound"), [("none", None), (7.5, 7.5)])
def test_a_configured_bound_holds_whatever_the_others_do(configured: float | str, bound: float | None) -> None:
    pace = FleetPace("a", configured, lease_seconds=15.0)
    pace.observe([a_generator("b", 0.001)])

    assert pace.bound_seconds(REQUEST) == bound


def test_the_pace_is_the_mean_of_windows_that_say_something_about_it() -> None:
    pace = FleetPace("a")
    pace.note(an_ended_window(10, seconds=20.0))
    pace.note(an_ended_window(1, seconds=100.0))  # its prefill
    pace.note(an_ended_window(10, seconds=10.0))

    assert pace.seconds_per_token == pytest.approx(0.9 * 2.0 + 0.1 * 1.0)


async def test_the_others_are_looked_at_once_a_lease() -> None:
    looks, heartbeats = [], Heartbeats()

    async def look() -> list[Presence]:
        looks.append(True)
        return [a_generator("b", 0.5)]

    pace = FleetPace("a", "auto", lease_seconds=3600.0)
    announce = pace.observing(heartbeats, look)
    for _ in range(3):
        await announce({})

    assert (len(looks), heartbeats.sent.qsize()) == (1, 3)
    assert pace.bound_seconds(a_request(max_new_tokens=10**5)) == pytest.approx(10**5)


def test_tokens_a_second_are_those_of_the_last_ten_heartbeats() -> None:
    speed = Speed()

    assert speed.of(0, 100.0) is None
    assert speed.of(50, 101.0) == 50.0
    found = [speed.of(50 + 10 * look, 101.0 + look) for look in range(1, 30)]
    assert found[-1] == pytest.approx(10.0)


class TimedEngine(FakeEngine):
    """As many windows at once as it has slots, each of a given time."""

    def __init__(self, *, num_slots: int, seconds: float) -> None:
        super().__init__(num_slots=num_slots)
        self._slots, self._seconds = asyncio.Semaphore(num_slots), seconds

    async def generate(self, request: WindowRequest, on_tokens: OnTokens | None = None) -> Window:
        async with self._slots:
            await asyncio.sleep(self._seconds)
            return await super().generate(request, on_tokens)


async def test_each_of_two_generators_takes_what_it_can_hold(streams: MemoryStreams) -> None:
    await ask(streams, *(a_request(f"r{number}") for number in range(40)))
    queue = streams.window_requests
    fast = service_on(queue, TimedEngine(num_slots=4, seconds=0.01), name="fast", capacity=4)
    slow = service_on(queue, TimedEngine(num_slots=2, seconds=0.2), name="slow", capacity=2)

    async with running(slow), running(fast):
        windows = await inbox_records(streams, Window, 40)

    served = Counter(window.generator for window in windows)
    assert len({window.key for window in windows}) == 40
    assert served["slow"] >= 1
    assert served["fast"] > 2 * served["slow"]
    assert slow.status()["num_held"] == fast.status()["num_held"] == 0
