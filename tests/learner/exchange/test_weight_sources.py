"""Which generator is sent weights by whom: the learner sends to a few of them, and none waits without end."""

import asyncio
from dataclasses import dataclass, field

import pytest

from learner.exchange.weight_sources import LEARNER, WeightRoute, WeightSources, stream_seconds
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.cancellation import cancel_all

DIGEST, OTHER = "blake3:1", "blake3:2"
LONG = 1000.0


@dataclass
class Clock:
    """Stands still until it is set."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fleet:
    """Sources with one stream each, unless a test says otherwise."""

    num_streams: int = 1
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.sources = WeightSources(num_streams=self.num_streams, clock=self.clock)

    async def take(self, address: str, digest: str = DIGEST, seconds: float = LONG) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.sources.take(address, digest, seconds)

    def has_taken(self, address: str, digest: str = DIGEST, *, is_kept: bool = True) -> None:
        self.sources.release(address)
        self.sources.settle(address, digest, is_kept=is_kept, takes_bytes=True)


async def test_sixty_four_generators_are_served_in_seven_rounds_by_a_learner_that_sends_to_one_at_a_time() -> None:
    fleet, rest, rounds, num_by_learner = Fleet(), [f"g{index}" for index in range(64)], 0, 0

    while rest:
        rounds += 1
        waiting = {address: asyncio.create_task(fleet.take(address)) for address in rest}
        await asyncio.sleep(0)
        served = [address for address, task in waiting.items() if task.done()]
        num_by_learner += sum(waiting[address].result() == LEARNER for address in served)
        await cancel_all(waiting.values())
        for address in served:
            fleet.has_taken(address)
        rest = [address for address in rest if address not in served]

    assert (rounds, num_by_learner) == (
        7,
        6,
    )  # after six, 1 + 2 + 4 + ... + 32 have it; the last reads from one of them


async def test_a_generator_goes_before_the_learner_and_the_less_busy_before_the_other() -> None:
    fleet = Fleet(num_streams=2)
    fleet.has_taken("a")
    fleet.has_taken("b")

    assert [await fleet.take(f"c{index}") for index in range(6)] == ["a", "b", "a", "b", LEARNER, LEARNER]


async def test_only_who_keeps_these_very_weights_is_a_source() -> None:
    fleet = Fleet(num_streams=9)
    fleet.has_taken("older", OTHER)
    fleet.has_taken("without", is_kept=False)
    fleet.has_taken("newer", DIGEST)
    fleet.has_taken("newer", OTHER)

    assert await fleet.take("a") == LEARNER
    assert await fleet.take("b", OTHER) in {"older", "newer"}


async def test_a_generator_that_requests_weights_again_is_no_source_of_them() -> None:
    fleet = Fleet(num_streams=9)
    fleet.has_taken("a")

    assert await fleet.take("a") == LEARNER
    assert await fleet.take("b") == LEARNER


@pytest.mark.parametrize("event", ["released", "settled", "gone"])
async def test_who_waits_goes_on_when_a_source_is_free(event: str) -> None:
    fleet = Fleet()
    await fleet.take("a")
    waiting = asyncio.create_task(fleet.take("b"))
    await asyncio.sleep(0)
    assert not waiting.done()

    if event == "settled":
        fleet.sources.settle("a", DIGEST, is_kept=True, takes_bytes=True)
    elif event == "released":
        fleet.sources.release("a")
    else:
        fleet.sources.forget("a")

    assert await waiting == ("a" if event == "settled" else LEARNER)


async def test_a_slow_stream_keeps_nobody_from_its_source_beyond_its_time() -> None:
    fleet = Fleet()
    await fleet.take("slow", seconds=5.0)
    fleet.clock.now = 5.0

    assert await fleet.take("a") == LEARNER


async def test_the_end_of_a_streams_time_wakes_who_waits() -> None:
    sources = WeightSources(num_streams=1)
    await sources.take("slow", DIGEST, 0.05)

    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await sources.take("a", DIGEST, LONG) == LEARNER


async def test_a_generator_that_has_failed_as_a_source_is_none_and_the_learner_sends_at_once() -> None:
    fleet = Fleet()
    await fleet.take("a")
    fleet.sources.settle("bad", DIGEST, is_kept=True, takes_bytes=True)
    route = WeightRoute(fleet.sources, "b")

    assert await route.choose(DIGEST, LONG, peer_failed=False) == "bad"
    assert await route.choose(DIGEST, LONG, peer_failed=True) == LEARNER
    fleet.sources.forget("a")
    route.end()
    assert await fleet.take("c") == LEARNER


async def test_weights_are_relayed_where_more_generators_need_bytes_than_the_learner_sends_to() -> None:
    sources, seen = WeightSources(num_streams=2), []
    for address in ("a", "b", "c"):
        sources.expect(address)
        seen.append(sources.are_relayed)
    sources.settle("c", DIGEST, is_kept=False, takes_bytes=False)  # it has opened the learner's memory
    seen.append(sources.are_relayed)
    sources.expect("c")  # the next weights: as it did before
    seen.append(sources.are_relayed)
    sources.forget("c")  # another process may be there now
    sources.expect("c")
    seen.append(sources.are_relayed)

    assert seen == [False, False, True, False, False, True]


def test_a_streams_time_grows_with_its_bytes() -> None:
    assert stream_seconds(0) == 10.0
    assert stream_seconds(2**30) == pytest.approx(10.0 + 1024 / 25)
