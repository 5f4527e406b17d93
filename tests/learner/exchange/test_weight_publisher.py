"""Every living generator gets the newest weights, and gets them again when it has lost them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from operator import eq

import pytest
import torch

from learner.exchange import weight_publisher
from learner.exchange.weight_publisher import (
    DisprovedError,
    FoundGenerator,
    Snapshot,
    TransferError,
    WeightPublisher,
)
from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.process.cancellation import cancel_all

SNAPSHOTS = {
    policy_version: Snapshot({"weight": torch.zeros(1)}, "run", policy_version, incarnation=1)
    for policy_version in range(5, 10)
}


def a_snapshot(policy_version: int) -> Snapshot:
    return SNAPSHOTS[policy_version]


class World:
    """Generators that are found and take weights, unless they are made to fail."""

    def __init__(self) -> None:
        self.found = {"generation-0": FoundGenerator("127.0.0.1:1", started_at=1.0)}
        self.num_failures = 0
        self.never_answers = ""  # the address of a generator
        self.held_of_attempts: list[int | None] = []  # what it says before it fails; None: it does not fail
        self.newer: Snapshot | None = None  # published while the first attempt is under way
        self.sent: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.failure = TransferError("cut in the middle")
        self.disagreements: list[str] = []
        self.forgotten: list[str] = []
        self.publisher = WeightPublisher(self, self.find_generators, on_disagreement=self.disagreements.append)

    async def find_generators(self) -> Mapping[str, FoundGenerator]:
        return dict(self.found)

    async def send(self, address: str, snapshot: Snapshot) -> None:
        self.sent.put_nowait((address, snapshot.policy_version))
        if self.num_failures:
            self.num_failures -= 1
            raise self.failure
        if address == self.never_answers:
            await asyncio.Event().wait()
        if self.newer is not None:
            newer, self.newer = self.newer, None
            await self.publisher.publish(newer)
        if self.held_of_attempts and (num_held := self.held_of_attempts.pop(0)) is not None:
            raise TransferError("cut", num_held=num_held)

    async def forget(self, address: str) -> None:
        self.forgotten.append(address)

    async def next_sent(self) -> tuple[str, int]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.sent.get()


@asynccontextmanager
async def publishing(world: World) -> AsyncIterator[WeightPublisher]:
    serving = asyncio.create_task(world.publisher.serve())
    try:
        yield world.publisher
    finally:
        await cancel_all([serving])


@pytest.fixture
def world() -> World:
    return World()


async def test_a_restarted_generator_at_the_same_address_gets_the_weights_again(world: World) -> None:
    async with publishing(world) as publisher:
        await publisher.publish(a_snapshot(5))
        assert await world.next_sent() == ("127.0.0.1:1", 5)

        world.found["generation-0"] = FoundGenerator("127.0.0.1:1", started_at=2.0)

        assert await world.next_sent() == ("127.0.0.1:1", 5)
        assert world.forgotten == ["127.0.0.1:1"]


async def test_what_is_known_of_a_generator_that_is_gone_is_forgotten(world: World) -> None:
    async with publishing(world) as publisher:
        await publisher.publish(a_snapshot(5))
        await world.next_sent()
        world.found = {"generation-1": FoundGenerator("127.0.0.1:2", started_at=2.0)}

        assert await world.next_sent() == ("127.0.0.1:2", 5)
        await until(lambda: world.forgotten, "the end of the first", is_met=partial(eq, ["127.0.0.1:1"]))


async def test_a_generator_that_joins_late_gets_the_newest_weights_alone(world: World) -> None:
    async with publishing(world) as publisher:
        for policy_version in (5, 6):
            await publisher.publish(a_snapshot(policy_version))
            assert await world.next_sent() == ("127.0.0.1:1", policy_version)

        world.found["generation-1"] = FoundGenerator("127.0.0.1:2", started_at=2.0)

        assert await world.next_sent() == ("127.0.0.1:2", 6)


async def test_a_failed_transfer_is_retried_and_its_error_shown(world: World) -> None:
    world.num_failures = 10**6
    async with publishing(world) as publisher:
        await publisher.publish(a_snapshot(5))
        assert await world.next_sent() == ("127.0.0.1:1", 5)
        state = publisher.generators["generation-0"]
        await until(lambda: state.error, "the error", is_met=partial(eq, "cut in the middle"))

        world.num_failures = 0
        await until(lambda: (state.policy_version, state.error), "its success", is_met=partial(eq, (5, "")))


async def test_what_a_generator_has_is_not_sent_again(world: World) -> None:
    async with publishing(world) as publisher:
        await publisher.publish(a_snapshot(5))
        await world.next_sent()
        await publisher.publish(a_snapshot(5))
        await publisher.publish(a_snapshot(6))

        assert await world.next_sent() == ("127.0.0.1:1", 6)


async def test_a_generator_that_never_answers_delays_no_other(world: World) -> None:
    world.found["generation-1"] = FoundGenerator("127.0.0.1:2", started_at=2.0)
    world.never_answers = "127.0.0.1:1"
    async with publishing(world) as publisher:
        for policy_version in (5, 6, 7):
            await publisher.publish(a_snapshot(policy_version))
            while await world.next_sent() != ("127.0.0.1:2", policy_version):
                pass


async def test_versions_that_came_and_went_while_nobody_took_them_are_skipped(world: World) -> None:
    for policy_version in (5, 6, 7):
        await world.publisher.publish(a_snapshot(policy_version))

    async with publishing(world):
        assert await world.next_sent() == ("127.0.0.1:1", 7)


@pytest.mark.parametrize(
    ("held", "sent"),
    [
        pytest.param([0, 10, 30, None], [5, 5, 5, 5], id="each attempt has moved it forward"),
        pytest.param([0, 10, 10, None], [5, 5, 5, 6], id="an attempt has moved nothing"),
        pytest.param([-1, None], [5, 6], id="it was never reached"),
    ],
)
async def test_a_broken_transfer_goes_on_with_its_weights_for_as_long_as_it_moves(
    world: World, held: list[int | None], sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_publisher, "FIRST_DELAY_SECONDS", 0.0)
    world.held_of_attempts = held
    world.newer = a_snapshot(6)
    async with publishing(world) as publisher:
        await publisher.publish(a_snapshot(5))

        assert [(await world.next_sent())[1] for _ in sent] == sent


async def test_a_generator_that_disagrees_is_sent_the_weights_again_and_an_operator_reads_of_it(world: World) -> None:
    world.num_failures, world.failure = 1, DisprovedError("the engine differs by up to 3 nats")
    async with publishing(world) as publisher:
        await publisher.publish(a_snapshot(5))
        assert [await world.next_sent() for _ in range(2)] == [("127.0.0.1:1", 5)] * 2

        state = publisher.generators["generation-0"]
        await until(lambda: (state.policy_version, state.error), "its success", is_met=partial(eq, (5, "")))

    assert state.num_disagreements == 1
    assert world.disagreements == ["generation-0 disagrees with the learner: the engine differs by up to 3 nats"]


class Slow:
    """A transport that sends nothing: each transfer is under way until it is cancelled."""

    def __init__(self) -> None:
        self.under_way: dict[str, int] = {}  # versions, by address

    async def send(self, address: str, snapshot: Snapshot) -> None:
        self.under_way[address] = snapshot.policy_version
        await asyncio.Event().wait()

    async def forget(self, address: str) -> None: ...


async def test_of_the_snapshots_that_slow_generators_hold_the_oldest_stays_and_the_others_are_overtaken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_publisher, "DISCOVERY_SECONDS", 0.01)
    transport, found = Slow(), dict[str, FoundGenerator]()

    async def find_generators() -> Mapping[str, FoundGenerator]:
        return dict(found)

    publisher = WeightPublisher(transport, find_generators)
    serving = asyncio.create_task(publisher.serve())
    try:
        for version in (5, 6, 7, 8):
            await publisher.publish(a_snapshot(version))
            found[f"g{version}"] = FoundGenerator(f"at-{version}", started_at=1.0)
            await until(partial(transport.under_way.get, f"at-{version}"), "a transfer", is_met=partial(eq, version))

        await until(lambda: transport.under_way["at-6"], "the newest weights", is_met=partial(eq, 8))
        assert transport.under_way == {"at-5": 5, "at-6": 8, "at-7": 7, "at-8": 8}
        shown = json.loads(json.dumps({name: asdict(state) for name, state in publisher.generators.items()}))
        assert [state["error"] for state in shown.values()] == [""] * 4  # as the heartbeat shows it meanwhile
    finally:
        await cancel_all([serving])
