"""Before a step every generator frees its memory; until the next weights are published none are sent."""

import asyncio
from collections.abc import Mapping

import pytest

from learner.exchange import sleeping_engines
from learner.exchange.sleeping_engines import SleepingEngines, TrainedWeights
from learner.exchange.weight_publisher import FoundGenerator, TransferError
from tests.learner.exchange.test_weight_publisher import World, a_snapshot, publishing
from tests.support.waiting import DEADLINE_SECONDS

FIRST, SECOND = FoundGenerator("127.0.0.1:1", started_at=1.0), FoundGenerator("127.0.0.1:2", started_at=1.0)


class Generators:
    """Two generators that free their memory, unless they are made to fail."""

    def __init__(self) -> None:
        self.found = {"generation-0": FIRST, "generation-1": SECOND}
        self.failing = ""
        self.asleep: list[tuple[str, TrainedWeights]] = []
        self.has_failed = asyncio.Event()

    async def find_generators(self) -> Mapping[str, FoundGenerator]:
        return dict(self.found)

    async def let_sleep(self, address: str, weights: TrainedWeights) -> None:
        if address == self.failing:
            self.has_failed.set()
            raise TransferError("UNAVAILABLE: it does not answer")
        self.asleep.append((address, weights))


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> Generators:
    monkeypatch.setattr(sleeping_engines, "FIRST_DELAY_SECONDS", 0.001)
    return Generators()


async def test_a_step_begins_when_all_engines_sleep_that_serve_the_weights_it_trains(generators: Generators) -> None:
    world = World()
    await world.publisher.publish(a_snapshot(5))

    await SleepingEngines(generators, world.publisher).before_step(is_on=True)

    weights = TrainedWeights("run", 1, 5)
    assert generators.asleep == [("127.0.0.1:1", weights), ("127.0.0.1:2", weights)]


async def test_engines_with_a_device_of_their_own_stay_awake(generators: Generators) -> None:
    world = World()
    await world.publisher.publish(a_snapshot(5))

    await SleepingEngines(generators, world.publisher).before_step(is_on=False)

    assert generators.asleep == []


async def test_a_generator_that_does_not_answer_is_retried_and_named(generators: Generators) -> None:
    world = World()
    await world.publisher.publish(a_snapshot(5))
    engines = SleepingEngines(generators, world.publisher)
    generators.failing = "127.0.0.1:2"

    waiting = asyncio.create_task(engines.before_step(is_on=True))
    await generators.has_failed.wait()
    assert "generation-1" in engines.waiting_for
    assert not waiting.done()
    generators.failing = ""
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)

    assert [address for address, _ in generators.asleep] == ["127.0.0.1:1", "127.0.0.1:2"]  # each of them once
    assert engines.waiting_for == ""


async def test_a_generator_whose_heartbeat_ends_is_waited_for_no_longer(generators: Generators) -> None:
    world = World()
    await world.publisher.publish(a_snapshot(5))
    generators.failing = "127.0.0.1:2"

    waiting = asyncio.create_task(SleepingEngines(generators, world.publisher).before_step(is_on=True))
    await generators.has_failed.wait()
    del generators.found["generation-1"]
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)

    assert [address for address, _ in generators.asleep] == ["127.0.0.1:1"]


async def test_a_generator_that_starts_in_mid_step_is_sent_the_next_weights_and_not_those_that_are_trained(
    generators: Generators,
) -> None:
    world = World()
    await world.publisher.publish(a_snapshot(5))
    await SleepingEngines(generators, world.publisher).before_step(is_on=True)

    async with publishing(world) as publisher:  # its generator has nothing yet
        await publisher.publish(a_snapshot(6))
        assert await world.next_sent() == ("127.0.0.1:1", 6)
