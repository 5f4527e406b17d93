"""The learner's transport and a generator's intake, over a real connection."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.exchange.live_peers import GrpcTransport
from learner.exchange.weight_publisher import Snapshot, TransferError
from services.generation.build import weight_server
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_intake import WeightIntake
from tests.generation.fake_engine import FakeEngine
from tests.support.weights import PROBE
from tppo.announced_weights import AnnouncedWeights
from tppo.config.sections.generation import GenerationSection
from tppo.streams import StreamsUnavailable
from tppo.v1 import generation_pb2 as pb
from tppo.weights import MemoryFile

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}
NUM_CHUNKS = 5  # of 8 bytes, the last of 2


@dataclass
class Announcements:
    """What the learner has announced, where the generators look it up."""

    newest: AnnouncedWeights | None = None
    error: Exception | None = None

    async def announce(self, weights: AnnouncedWeights) -> None:
        if self.error is not None:
            raise self.error
        self.newest = weights

    async def look(self) -> AnnouncedWeights | None:
        return self.newest


class BreakingIntake(WeightIntake):
    """Loses the connection after so many chunks of each call, as long as there are numbers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.num_chunks_before_break: list[int] = []
        self.chunks_of_calls: list[int] = []
        self.requested: list[int] = []

    async def update_weights(self, messages: Any, context: Any) -> AsyncIterator[pb.UpdateWeightsResponse]:
        self.chunks_of_calls.append(0)
        async for answer in super().update_weights(self._broken(aiter(messages)), context):
            if answer.HasField("wanted"):
                self.requested.append(answer.wanted.source)
            yield answer

    async def _broken(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        breaks_after = self.num_chunks_before_break.pop(0) if self.num_chunks_before_break else None
        yield await anext(messages)
        while self.chunks_of_calls[-1] != breaks_after:
            chunk = await anext(messages)
            self.chunks_of_calls[-1] += 1
            yield chunk
        raise ConnectionError("lost")


@dataclass
class Generator:
    engine: FakeEngine
    intake: BreakingIntake
    address: str


@dataclass
class Learner:
    announcements: Announcements = field(default_factory=Announcements)
    options: dict[str, Any] = field(default_factory=lambda: {"chunk_bytes": 8})

    def __post_init__(self) -> None:
        self.transport = GrpcTransport(self.announcements.announce, **self.options)


@asynccontextmanager
async def a_generator(learner: Learner, *, shares_memory: bool) -> AsyncIterator[Generator]:
    engine = FakeEngine(policy_version=-1)
    intake = BreakingIntake(
        ServedWeights(engine), learner.announcements.look, run="mine", name="g0", shares_memory=shares_memory
    )
    async with weight_server(intake, GenerationSection(), token="") as address:
        yield Generator(engine, intake, address)
        await learner.transport.close()


async def a_snapshot(
    policy_version: int = 1, tensors: Mapping[str, torch.Tensor] = TENSORS, *, incarnation: int = 1
) -> Snapshot:
    return await asyncio.to_thread(Snapshot, tensors, "mine", policy_version, incarnation=incarnation, probe=PROBE)


def inode(path: str) -> int:
    return Path(path).stat().st_ino


def has_weights(generator: Generator) -> bool:
    tensors = generator.engine.updates[-1].tensors
    return all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


async def test_on_one_machine_the_learners_memory_is_mapped_and_nothing_is_sent() -> None:
    learner, snapshot = Learner(), await a_snapshot()

    async with a_generator(learner, shares_memory=True) as generator:
        await learner.transport.send(generator.address, snapshot)

        assert has_weights(generator)
        assert generator.intake.chunks_of_calls == [0]
        path = await asyncio.to_thread(generator.engine.updates[0].shared_path)
        assert inode(path) == inode(snapshot.file.path)


async def test_the_weights_stay_when_the_learner_and_its_snapshot_are_gone() -> None:
    learner, snapshot = Learner(), await a_snapshot()

    async with a_generator(learner, shares_memory=True) as generator:
        await learner.transport.send(generator.address, snapshot)
        del snapshot

        assert has_weights(generator)


async def test_between_machines_the_bytes_are_sent() -> None:
    learner = Learner()

    async with a_generator(learner, shares_memory=False) as generator:
        await learner.transport.send(generator.address, await a_snapshot())

        assert has_weights(generator)
        assert generator.intake.chunks_of_calls == [NUM_CHUNKS]


@pytest.mark.parametrize("num_chunks", range(NUM_CHUNKS))
async def test_after_a_broken_connection_only_the_rest_is_sent(num_chunks: int) -> None:
    learner, snapshot = Learner(), await a_snapshot()

    async with a_generator(learner, shares_memory=False) as generator:
        generator.intake.num_chunks_before_break = [num_chunks, 0]
        for num_held in (0, 8 * num_chunks):
            with pytest.raises(TransferError) as raised:
                await learner.transport.send(generator.address, snapshot)
            assert raised.value.num_held in {num_held, -1}  # not known where the call ended before its first answer
        await learner.transport.send(generator.address, snapshot)

        assert has_weights(generator)
        assert generator.intake.chunks_of_calls == [num_chunks, 0, NUM_CHUNKS - num_chunks]


async def test_several_generators_are_sent_one_snapshot_at_once() -> None:
    learner, snapshot = Learner(), await a_snapshot()

    async with (
        a_generator(learner, shares_memory=False) as one,
        a_generator(learner, shares_memory=False) as two,
    ):
        await asyncio.gather(*(learner.transport.send(generator.address, snapshot) for generator in (one, two)))

        assert has_weights(one)
        assert has_weights(two)


class Deaf(WeightIntake):
    """Requests all bytes and reads none."""

    async def update_weights(self, messages: Any, context: Any) -> AsyncIterator[pb.UpdateWeightsResponse]:
        yield pb.UpdateWeightsResponse(wanted=pb.WantedWeights(source=pb.WEIGHT_SOURCE_WHOLE))
        await asyncio.Event().wait()


async def test_a_generator_that_takes_no_byte_ends_the_attempt() -> None:
    learner = Learner(options={"standstill_seconds": 0.2})
    large = {"w": torch.zeros(2**25, dtype=torch.uint8)}
    snapshot = await asyncio.to_thread(Snapshot, large, "mine", 1, incarnation=1, probe=PROBE)
    intake = Deaf(ServedWeights(FakeEngine()), learner.announcements.look, run="mine", name="g0")

    async with weight_server(intake, GenerationSection(), token="") as address:
        with pytest.raises(TransferError, match=r"has taken nothing for 0\.2 s"):
            await learner.transport.send(address, snapshot)
        await learner.transport.close()


async def test_a_request_for_what_there_is_not_ends_the_attempt() -> None:
    class Greedy(WeightIntake):
        async def update_weights(self, messages: Any, context: Any) -> AsyncIterator[pb.UpdateWeightsResponse]:
            await anext(aiter(messages))  # the manifest: a call that ends before it was read fails by itself
            yield pb.UpdateWeightsResponse(wanted=pb.WantedWeights(source=pb.WEIGHT_SOURCE_WHOLE, offset=10**6))

    learner = Learner()
    intake = Greedy(ServedWeights(FakeEngine()), learner.announcements.look, run="mine", name="g0")

    async with weight_server(intake, GenerationSection(), token="") as address:
        with pytest.raises(TransferError, match="requests source 1 from byte 1000000 on"):
            await learner.transport.send(address, await a_snapshot())
        await learner.transport.close()


async def test_nobody_is_there() -> None:
    learner = Learner()

    with pytest.raises(TransferError, match="UNAVAILABLE") as raised:
        await learner.transport.send("127.0.0.1:1", await a_snapshot())

    assert raised.value.num_held == -1
    await learner.transport.close()


async def test_weights_that_cannot_be_announced_are_not_sent() -> None:
    learner = Learner(Announcements(error=StreamsUnavailable("connection refused")))

    async with a_generator(learner, shares_memory=True) as generator:
        with pytest.raises(TransferError, match="cannot announce the weights: connection refused"):
            await learner.transport.send(generator.address, await a_snapshot())

        assert generator.engine.updates == []


async def test_a_refusal_at_the_manifest_is_reported_in_the_generators_words() -> None:
    learner, snapshot = Learner(), await a_snapshot(2)

    async with a_generator(learner, shares_memory=True) as generator:
        await learner.transport.send(generator.address, snapshot)
        with pytest.raises(TransferError, match=r"FAILED_PRECONDITION: .*is older than"):
            await learner.transport.send(generator.address, await a_snapshot(1))


LARGE = {"w": torch.zeros(1000, dtype=torch.bfloat16)}  # a change takes 4 bytes of 2000
WHOLE, DELTA = pb.WEIGHT_SOURCE_WHOLE, pb.WEIGHT_SOURCE_DELTA


def with_change(place: int) -> dict[str, torch.Tensor]:
    tensor = LARGE["w"].clone()
    tensor[place] = place
    return {"w": tensor}


async def test_between_machines_what_has_changed_is_sent_and_versions_may_be_skipped() -> None:
    learner = Learner(options={})

    async with (
        a_generator(learner, shares_memory=False) as each,
        a_generator(learner, shares_memory=False) as some,
    ):
        for version in (1, 2, 3, 4):
            snapshot = await a_snapshot(version, with_change(version))
            await learner.transport.send(each.address, snapshot)
            if version in (1, 4):
                await learner.transport.send(some.address, snapshot)

        assert each.intake.requested == [WHOLE, DELTA, DELTA, DELTA]
        assert some.intake.requested == [WHOLE, DELTA]
        for generator in (each, some):
            assert torch.equal(generator.engine.updates[-1].tensors["w"], with_change(4)["w"])
            assert generator.engine.updates[-1].policy_version == 4


async def test_a_new_incarnation_sends_all_bytes() -> None:
    learner = Learner(options={})

    async with a_generator(learner, shares_memory=False) as generator:
        await learner.transport.send(generator.address, await a_snapshot(5, with_change(1)))
        await learner.transport.send(generator.address, await a_snapshot(4, with_change(2), incarnation=2))

        assert generator.intake.requested == [WHOLE, WHOLE]
        assert torch.equal(generator.engine.updates[-1].tensors["w"], with_change(2)["w"])


async def test_a_generator_that_joins_again_is_sent_all_bytes() -> None:
    learner = Learner(options={})

    async with a_generator(learner, shares_memory=False) as generator:
        await learner.transport.send(generator.address, await a_snapshot(1, with_change(1)))
        generator.intake.receptions.drop()
        await learner.transport.send(generator.address, await a_snapshot(2, with_change(2)))

        assert generator.intake.requested == [WHOLE, WHOLE]


async def test_steps_that_change_nearly_everything_are_sent_whole_and_not_compared_for_a_while() -> None:
    learner = Learner(options={})

    async with a_generator(learner, shares_memory=False) as generator:
        for version in range(1, 4):
            snapshot = await a_snapshot(version, {"w": torch.full((1000,), version, dtype=torch.bfloat16)})
            await learner.transport.send(generator.address, snapshot)

        assert generator.intake.requested == [WHOLE, WHOLE, WHOLE]
        assert generator.intake.receptions._kept is None


async def test_a_delta_that_leads_elsewhere_is_followed_by_all_bytes(caplog: pytest.LogCaptureFixture) -> None:
    learner = Learner(options={})

    async with a_generator(learner, shares_memory=False) as generator:
        await learner.transport.send(generator.address, await a_snapshot(1, with_change(1)))
        kept = generator.intake.receptions._kept
        assert kept is not None
        wrong = await asyncio.to_thread(MemoryFile.holding, with_change(9))
        generator.intake.receptions._kept = replace(kept, file=wrong)
        await learner.transport.send(generator.address, await a_snapshot(2, with_change(2)))

        assert generator.intake.requested == [WHOLE, DELTA, WHOLE]
        assert torch.equal(generator.engine.updates[-1].tensors["w"], with_change(2)["w"])
    assert "weights come whole: with the delta tensor 'w' has digest" in caplog.text
