"""Weights that generators read from each other: the learner's are in use in the end, whatever a generator sends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import torch

from learner.exchange import live_peers
from learner.exchange.live_peers import GrpcTransport
from learner.exchange.weight_publisher import Snapshot, TransferError
from learner.exchange.weight_sources import WeightSources
from services.generation.build import weight_server
from services.generation.weights import weight_relay
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_intake import WeightIntake
from services.generation.weights.weight_reception import KeptWeights
from tests.generation.fake_engine import FakeEngine
from tests.support.waiting import until
from tests.support.weights import PROBE
from tppo.announced_weights import AnnouncedWeights
from tppo.config.sections.generation import GenerationSection
from tppo.security.authentication import call_metadata
from tppo.v1 import generation_pb2 as pb
from tppo.weights import MemoryFile, byte_stream
from tppo.weights.messages import READ_METHOD

TOKEN = "of-the-generators"
TENSORS = {"a": torch.arange(600.0), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.arange(300.0)}


class CountingIntake(WeightIntake):
    """Knows which messages the learner has sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kinds: list[str] = []  # of the learner's messages

    async def update_weights(self, messages: Any, context: Any) -> AsyncIterator[pb.UpdateWeightsResponse]:
        async for answer in super().update_weights(self._noted(aiter(messages)), context):
            yield answer

    async def _noted(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            part = pb.UpdateWeightsRequest.FromString(message)
            kind = part.WhichOneof("part") or ""
            self.kinds.append("wait" if kind == "peer" and not part.peer.address else kind)
            yield message


@dataclass
class Generator:
    engine: FakeEngine
    intake: CountingIntake
    address: str

    @property
    def has_weights(self) -> bool:
        """Those of the learner."""
        tensors = self.engine.updates[-1].tensors
        return all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())

    @property
    def was_sent_chunks(self) -> bool:
        """By the learner."""
        return "chunk" in self.intake.kinds

    async def keep(self, tensors: dict[str, torch.Tensor]) -> None:
        """Others than its manifest says."""
        kept = self.intake.receptions._kept
        assert kept is not None
        self.intake.receptions._kept = KeptWeights(kept.manifest, await asyncio.to_thread(MemoryFile.holding, tensors))


class Fleet:
    """A learner that sends to one generator at a time, and its generators."""

    def __init__(
        self, generators: list[Generator], announced: list[AnnouncedWeights], closes: Callable[[socket.socket], object]
    ) -> None:
        async def announce(weights: AnnouncedWeights) -> None:
            announced.append(weights)

        self.generators = generators
        self.closes = closes  # at the fleet's end
        self.sources = WeightSources(num_streams=1)
        self.transport = GrpcTransport(announce, TOKEN, chunk_bytes=512, sources=self.sources)
        for one in generators:
            self.sources.expect(one.address)

    async def send(self, one: Generator, snapshot: Snapshot) -> None:
        await self.transport.send(one.address, snapshot)


Peer = Callable[[Fleet], Awaitable[str]]
"""Makes one that a generator is to read from; its address."""


@asynccontextmanager
async def a_fleet(size: int) -> AsyncIterator[Fleet]:
    announced: list[AnnouncedWeights] = []

    async def newest() -> AnnouncedWeights | None:
        return announced[-1]

    async with AsyncExitStack() as stack:
        generators = []
        for index in range(size):
            engine = FakeEngine(policy_version=-1)
            intake = CountingIntake(
                ServedWeights(engine), newest, run="mine", name=f"g{index}", token=TOKEN, shares_memory=False
            )
            address = await stack.enter_async_context(weight_server(intake, GenerationSection(), token=TOKEN))
            generators.append(Generator(engine, intake, address))
        fleet = Fleet(generators, announced, closes=lambda opened: stack.callback(opened.close))
        yield fleet
        await fleet.transport.close()


async def a_snapshot(policy_version: int = 1) -> Snapshot:
    return await asyncio.to_thread(Snapshot, TENSORS, "mine", policy_version, incarnation=1, probe=PROBE)


async def test_of_many_generators_the_learner_sends_to_few_and_the_others_read_from_each_other() -> None:
    snapshot = await a_snapshot()

    async with a_fleet(8) as fleet:
        await asyncio.gather(*(fleet.send(one, snapshot) for one in fleet.generators))

        assert all(one.has_weights for one in fleet.generators)
        assert 1 <= sum(one.was_sent_chunks for one in fleet.generators) < 8


async def test_the_next_generator_reads_from_the_one_that_has_the_weights() -> None:
    snapshot = await a_snapshot()

    async with a_fleet(3) as fleet:
        for one in fleet.generators:
            await fleet.send(one, snapshot)

        assert [one.was_sent_chunks for one in fleet.generators] == [True, False, False]
        assert all(one.has_weights for one in fleet.generators)


async def nobody(fleet: Fleet) -> str:
    return "127.0.0.1:1"


async def who_has_others(fleet: Fleet) -> str:
    """Right in its first tensor alone."""
    await fleet.generators[0].keep({**TENSORS, "c": torch.zeros(300)})
    return fleet.generators[0].address


async def who_has_fewer(fleet: Fleet) -> str:
    await fleet.generators[0].keep({"a": TENSORS["a"]})
    return fleet.generators[0].address


async def who_keeps_them_no_longer(fleet: Fleet) -> str:
    fleet.generators[0].intake.receptions.drop()
    return fleet.generators[0].address


async def who_says_nothing(fleet: Fleet) -> str:
    silent = socket.create_server(("127.0.0.1", 0))  # the system takes the connection, and nobody answers
    fleet.closes(silent)
    fleet.generators[1].intake.relay._message_seconds = 0.2
    return f"127.0.0.1:{silent.getsockname()[1]}"


async def sent_behind(peer: Peer, fleet: Fleet) -> Generator:
    """A generator that the learner has sent to, by way of a peer that does not send what it is to."""
    snapshot = await a_snapshot()
    first, second, _ = fleet.generators
    await fleet.send(first, snapshot)
    fleet.sources.distrust(first.address)
    fleet.sources.settle(await peer(fleet), snapshot.digest, is_kept=True, takes_bytes=True)
    await fleet.send(second, snapshot)
    return second


@pytest.mark.parametrize(
    ("peer", "num_chunks"),  # of 512 bytes; the first tensor has 2400 of 3610
    [(nobody, 8), (who_has_others, 3), (who_has_fewer, 3), (who_keeps_them_no_longer, 8), (who_says_nothing, 8)],
)
async def test_what_a_generator_does_not_send_right_the_learner_sends(
    peer: Peer, num_chunks: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_fleet(3) as fleet:
        generator = await sent_behind(peer, fleet)

        assert generator.intake.kinds == ["manifest", "peer", *["chunk"] * num_chunks]
        assert generator.has_weights
    assert "the learner is requested to send the rest" in caplog.text


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the bytes are, they go over connections."""
    monkeypatch.setattr(byte_stream, "MIN_STREAMED_BYTES", 1)


@pytest.mark.usefixtures("streamed")
async def test_bytes_go_over_connections_beside_the_calls() -> None:
    snapshot = await a_snapshot()

    async with a_fleet(3) as fleet:
        for one in fleet.generators:
            await fleet.send(one, snapshot)

        assert [one.intake.kinds for one in fleet.generators] == [["manifest", "streamed"], *[["manifest", "peer"]] * 2]
        assert all(one.has_weights for one in fleet.generators)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("peer", [nobody, who_has_others, who_has_fewer, who_keeps_them_no_longer, who_says_nothing])
async def test_what_does_not_come_right_over_a_connection_the_learner_sends(
    peer: Peer,
) -> None:
    async with a_fleet(3) as fleet:
        generator = await sent_behind(peer, fleet)

        assert generator.intake.kinds == ["manifest", "peer", "streamed"]
        assert generator.has_weights


@pytest.mark.usefixtures("streamed")
async def test_a_broken_connection_ends_the_attempt_and_the_next_goes_on_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []

    def send(connection: socket.socket, file: MemoryFile, begin: int) -> None:
        sent.append(begin)
        connection.sendall(file.data[begin : begin + 2000])

    monkeypatch.setattr(live_peers, "send", send)
    snapshot = await a_snapshot()

    async with a_fleet(1) as fleet:
        (one,) = fleet.generators
        with pytest.raises(TransferError, match="1610 bytes short of its manifest"):
            await fleet.send(one, snapshot)
        await fleet.send(one, snapshot)

        assert sent == [0, 2000]
        assert one.has_weights


@pytest.mark.usefixtures("streamed")
async def test_where_no_connection_can_be_had_the_bytes_go_as_messages_and_it_is_tried_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    async def connected(address: str, offer: byte_stream.StreamOffer) -> None:
        tried.append(address)

    for module in (live_peers, weight_relay):
        monkeypatch.setattr(module, "connected", connected)

    async with a_fleet(2) as fleet:
        one, other = fleet.generators
        await fleet.send(one, await a_snapshot(1))
        one.intake.receptions.drop()
        await fleet.send(one, await a_snapshot(2))
        await fleet.send(other, await a_snapshot(2))

        assert one.intake.kinds == ["manifest", *["chunk"] * 8] * 2
        assert other.intake.kinds == ["manifest", "peer"]
        assert tried == [one.address] * 2  # by the learner, and by the other generator
        assert one.has_weights
        assert other.has_weights


async def test_who_waits_for_a_source_is_sent_a_message_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_peers, "WAIT_MESSAGE_SECONDS", 0.01)
    snapshot = await a_snapshot()

    async with a_fleet(3) as fleet:
        (one, *_) = fleet.generators
        fleet.sources.occupy("", "a slow one", 1000.0)
        sending = asyncio.create_task(fleet.send(one, snapshot))
        await until(lambda: one.intake.kinds, "two messages", is_met=lambda kinds: len(kinds) > 2)
        fleet.sources.release("a slow one")
        await sending

        assert one.intake.kinds[:3] == ["manifest", "wait", "wait"]
        assert one.has_weights


async def test_a_generator_that_has_a_delta_keeps_all_bytes_for_others() -> None:
    async with a_fleet(3) as fleet:
        first, second, _ = fleet.generators
        await fleet.send(first, await a_snapshot(1))
        await fleet.send(first, await a_snapshot(2))
        await fleet.send(second, await a_snapshot(2))

        assert second.intake.kinds == ["manifest", "peer"]
        assert second.has_weights


async def test_a_fleet_that_the_learner_can_serve_alone_keeps_nothing_for_others() -> None:
    async with a_fleet(1) as fleet:
        (one,) = fleet.generators
        for version in range(1, 4):  # a delta is worth nothing to weights that all change
            tensors = {"w": torch.full((1000,), float(version))}
            snapshot = await asyncio.to_thread(Snapshot, tensors, "mine", version, incarnation=1, probe=PROBE)
            await fleet.send(one, snapshot)

        assert one.intake.receptions.kept(snapshot.digest) is None


@pytest.mark.parametrize(
    ("digest", "offset", "token", "seconds", "code"),
    [
        ("blake3:0", 0, TOKEN, 10.0, grpc.StatusCode.NOT_FOUND),
        ("", 10**9, TOKEN, 10.0, grpc.StatusCode.OUT_OF_RANGE),
        ("", -1, TOKEN, 10.0, grpc.StatusCode.OUT_OF_RANGE),
        ("", 0, TOKEN, None, grpc.StatusCode.INVALID_ARGUMENT),
        ("", 0, "another", 10.0, grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_who_may_not_read_or_reads_what_is_not_there_is_refused(
    digest: str, offset: int, token: str, seconds: float | None, code: grpc.StatusCode
) -> None:
    snapshot = await a_snapshot()

    async with a_fleet(2) as fleet:
        (one, _) = fleet.generators
        await fleet.send(one, snapshot)
        async with grpc.aio.insecure_channel(one.address) as channel:
            method: grpc.aio.UnaryStreamMultiCallable[pb.ReadWeightsRequest, bytes]
            method = channel.unary_stream(READ_METHOD, request_serializer=pb.ReadWeightsRequest.SerializeToString)
            request = pb.ReadWeightsRequest(digest=digest or snapshot.digest, offset=offset)
            call = method(request, timeout=seconds, metadata=call_metadata(token))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call.read()

        assert raised.value.code() is code
