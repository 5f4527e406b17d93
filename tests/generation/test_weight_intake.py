"""Weight transfers over a real gRPC server, into a fake engine."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import grpc.aio
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.generation.build import weight_server
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_intake import WeightIntake
from tests.generation.fake_engine import FakeEngine
from tests.support.waiting import DEADLINE_SECONDS
from tests.support.weights import data_of, manifest_of
from tppo.announced_weights import AnnouncedWeights
from tppo.config import ConfigError
from tppo.config.sections.generation import GenerationSection
from tppo.models.probe import ProbeError
from tppo.security.authentication import call_metadata
from tppo.streams import StreamsUnavailable
from tppo.v1 import generation_pb2 as pb
from tppo.weights import MemoryFile, WeightUpdate
from tppo.weights.manifest import SharedMemory
from tppo.weights.messages import METHOD, manifest_message

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}  # 34 bytes
MANIFEST = manifest_of(TENSORS)
DIGEST = MANIFEST.digest
DATA = data_of(TENSORS)


@dataclass
class Running:
    """A server, its engine, and a client's view of it."""

    engine: FakeEngine
    intake: WeightIntake
    address: str
    channel: grpc.aio.Channel

    @property
    def num_held(self) -> int:
        """Bytes of an unfinished transfer."""
        return self.intake.receptions.num_held

    async def answers(
        self, messages: Iterable[bytes], *, ends: bool = False, metadata: tuple[tuple[str, str], ...] = ()
    ) -> list[pb.UpdateWeightsResponse]:
        """The chunks wait until they are requested; `ends`: nothing follows them."""
        call = self.call(metadata=metadata)
        first, *chunks = messages
        await call.write(first)
        answers = [await read(call)]
        if answers[0].HasField("wanted"):
            for chunk in chunks:
                await call.write(chunk)
            if ends:
                await call.done_writing()
            answers.append(await read(call))
        return answers

    def call(
        self, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> "grpc.aio.StreamStreamCall[bytes, pb.UpdateWeightsResponse]":
        method: grpc.aio.StreamStreamMultiCallable[bytes, pb.UpdateWeightsResponse]
        method = self.channel.stream_stream(METHOD, response_deserializer=pb.UpdateWeightsResponse.FromString)
        return method(timeout=DEADLINE_SECONDS, metadata=metadata)

    async def send(self, messages: Iterable[bytes]) -> pb.UpdateWeightsResponse:
        return (await self.answers(messages))[-1]


async def read(call: "grpc.aio.StreamStreamCall[bytes, pb.UpdateWeightsResponse]") -> pb.UpdateWeightsResponse:
    answer = await call.read()
    assert isinstance(answer, pb.UpdateWeightsResponse)
    return answer


FAR_AHEAD = AnnouncedWeights(100, 0, "of later weights")


def announcing(weights: AnnouncedWeights | None = FAR_AHEAD) -> Callable[[], Awaitable[AnnouncedWeights | None]]:
    async def announced() -> AnnouncedWeights | None:
        return weights

    return announced


@asynccontextmanager
async def a_generator(
    *,
    message_seconds: float = 10.0,
    token: str = "",
    announced: Callable[[], Awaitable[AnnouncedWeights | None]] | None = None,
) -> AsyncIterator[Running]:
    engine = FakeEngine(policy_version=-1)
    intake = WeightIntake(
        ServedWeights(engine), announced or announcing(), run="mine", name="g0", message_seconds=message_seconds
    )
    async with (
        weight_server(intake, GenerationSection(), token=token) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Running(engine, intake, address, channel)


def transfer(
    policy_version: int = 1, *, incarnation: int = 0, run: str = "mine", begin: int = 0, chunk_bytes: int = 8
) -> list[bytes]:
    """The manifest, and the chunks from that byte on."""
    manifest = replace(MANIFEST, policy_version=policy_version, incarnation=incarnation, run=run)
    return [manifest_message(manifest), *transfer_chunks(begin, chunk_bytes)]


def transfer_chunks(begin: int = 0, chunk_bytes: int = 8) -> list[bytes]:
    return [message_of(DATA[place : place + chunk_bytes]) for place in range(begin, len(DATA), chunk_bytes)]


def message_of(chunk: memoryview | bytes) -> bytes:
    return pb.UpdateWeightsRequest(chunk=bytes(chunk)).SerializeToString()


async def refusal(generator: Running, messages: Iterable[bytes], *, ends: bool = False) -> tuple[grpc.StatusCode, str]:
    """What is sent is read before the generator refuses: an end of the call during a write loses its status."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await generator.answers(messages, ends=ends)
    return raised.value.code(), raised.value.details() or ""


async def test_a_transfer_reaches_the_engine_whole() -> None:
    async with a_generator() as generator:
        response = await generator.send(transfer(4, incarnation=2))
        (update,) = generator.engine.updates

    assert (response.policy_version, response.incarnation, response.digest) == (4, 2, DIGEST)
    assert update.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(update.tensors[name], tensor) for name, tensor in TENSORS.items())


async def test_weights_of_another_run_are_refused() -> None:
    async with a_generator() as generator:
        code, details = await refusal(generator, transfer(run="yours"))

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "run 'yours'; g0 serves 'mine'" in details


@pytest.mark.parametrize(
    ("incarnation", "policy_version", "is_taken"),
    [(1, 5, True), (1, 6, True), (2, 0, True), (1, 4, False), (0, 9, False)],
    ids=["the same again", "newer", "a later incarnation", "older", "an earlier incarnation"],
)
async def test_only_weights_at_least_as_new_are_taken(incarnation: int, policy_version: int, is_taken: bool) -> None:
    async with a_generator() as generator:
        await generator.send(transfer(5, incarnation=1))
        messages = transfer(policy_version, incarnation=incarnation)
        if is_taken:
            assert (await generator.send(messages)).policy_version == policy_version
        else:
            code, details = await refusal(generator, messages)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "older" in details
            assert generator.engine.policy_version == 5


@pytest.mark.parametrize(
    ("announced", "complaint"),
    [
        (None, "was not announced by the learner; its newest is None"),
        (AnnouncedWeights(1, 6, DIGEST), "policy_version=1000000) was not announced by the learner"),
        (AnnouncedWeights(1, 10**6, "sha256:d1ffe4e47"), "announced was sha256:d1ffe4e47"),
    ],
    ids=["nothing announced", "an earlier version announced", "other weights announced"],
)
async def test_weights_that_the_learner_has_not_announced_are_refused(
    announced: AnnouncedWeights | None, complaint: str
) -> None:
    async with a_generator(announced=announcing(announced)) as generator:
        code, details = await refusal(generator, transfer(10**6, incarnation=1))

        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert complaint in details
        assert generator.engine.updates == []


async def test_announced_weights_are_taken() -> None:
    async with a_generator(announced=announcing(AnnouncedWeights(1, 6, DIGEST))) as generator:
        assert (await generator.send(transfer(5, incarnation=1))).policy_version == 5
        assert (await generator.send(transfer(6, incarnation=1))).policy_version == 6


async def test_a_transfer_fails_while_nobody_knows_what_was_announced() -> None:
    async def unavailable() -> AnnouncedWeights | None:
        raise StreamsUnavailable("connection refused")

    async with a_generator(announced=unavailable) as generator:
        answer = await refusal(generator, transfer())

    assert answer == (grpc.StatusCode.UNAVAILABLE, "whether the weights were announced: connection refused")


async def test_an_incomplete_transfer_changes_nothing() -> None:
    async with a_generator() as generator:
        code, details = await refusal(generator, transfer()[:-1], ends=True)

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "2 bytes short of its manifest" in details
        assert generator.engine.updates == []


@pytest.mark.parametrize("num_messages", range(1, 7))  # the manifest and five chunks
async def test_a_transfer_that_broke_after_any_message_goes_on_behind_what_has_arrived(num_messages: int) -> None:
    async with a_generator() as generator:
        if num_messages < 6:
            await refusal(generator, transfer()[:num_messages], ends=True)
        held = min(8 * (num_messages - 1), 34) if num_messages < 6 else 0

        requested, served = await generator.answers(transfer(begin=held))
        (update,) = generator.engine.updates

    assert (requested.wanted.source, requested.wanted.offset) == (pb.WEIGHT_SOURCE_WHOLE, held)
    assert (served.policy_version, served.digest) == (1, DIGEST)
    assert all(torch.equal(update.tensors[name], tensor) for name, tensor in TENSORS.items())


async def test_a_connection_that_is_lost_leaves_what_has_arrived() -> None:
    manifest, first, *_ = transfer()

    async with a_generator() as generator:
        call = generator.call()
        await call.write(manifest)
        await call.read()
        await call.write(first)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not generator.num_held:  # noqa: ASYNC110  nothing announces it
                await asyncio.sleep(0.01)
        call.cancel()

        requested, _ = await generator.answers(transfer(begin=8))

    assert requested.wanted.offset == 8


async def test_a_second_manifest_is_refused() -> None:
    manifest, *chunks = transfer()

    async with a_generator() as generator:
        code, details = await refusal(generator, [manifest, chunks[0], manifest])

    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "the weight transfer brought a second manifest")


@pytest.mark.parametrize(
    ("message", "complaint"),
    [(transfer_chunks()[0], "a chunk before its manifest"), (b"\xff", "are no tppo")],
    ids=["a chunk", "garbage"],
)
async def test_a_transfer_that_does_not_begin_with_a_manifest_is_refused(message: bytes, complaint: str) -> None:
    async with a_generator() as generator:
        code, details = await refusal(generator, [message])

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in details


async def test_a_transfer_without_messages_is_refused() -> None:
    async with a_generator() as generator:
        call = generator.call()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="ended before its manifest"):
            await call.read()


async def test_bytes_that_were_changed_on_the_way_are_noticed_and_sent_again_from_the_beginning() -> None:
    manifest, _, second, third, *_ = transfer()  # the first tensor has 24 bytes

    async with a_generator() as generator:
        code, details = await refusal(generator, [manifest, message_of(bytes(7) + b"\x01"), second, third])
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "tensor 'a' has arrived with digest" in details
        assert generator.engine.updates == []

        assert [answer.wanted.offset for answer in await generator.answers(transfer())] == [0, 0]
        assert len(generator.engine.updates) == 1


async def test_weights_in_the_learners_memory_are_taken_from_there_without_a_chunk() -> None:
    file = await asyncio.to_thread(MemoryFile.holding, TENSORS, nonce="n1")
    manifest = replace(MANIFEST, shared=SharedMemory(os.getpid(), file.number, "n1"))

    async with a_generator() as generator:
        (served,) = await generator.answers([manifest_message(manifest)])
        (update,) = generator.engine.updates

    assert (served.policy_version, served.digest) == (1, DIGEST)
    assert all(torch.equal(update.tensors[name], tensor) for name, tensor in TENSORS.items())


async def test_the_bytes_are_requested_where_the_learners_memory_is_not_there() -> None:
    manifest = replace(MANIFEST, shared=SharedMemory(os.getpid(), 99999, "n1"))

    async with a_generator() as generator:
        requested, served = await generator.answers([manifest_message(manifest), *transfer_chunks()])

    assert requested.wanted.source == pb.WEIGHT_SOURCE_WHOLE
    assert served.digest == DIGEST


async def test_an_engine_that_answers_the_probe_otherwise_than_the_learner_is_reported_with_the_difference() -> None:
    async with a_generator() as generator:
        generator.engine.probed = -1.25
        code, details = await refusal(generator, transfer(4))

    assert code is grpc.StatusCode.DATA_LOSS
    assert details == (
        "with the weights of version 4 the engine differs from the learner by up to 0.25 nats, 0.25 in the mean "
        "(expected at most 0.002 and 0.0002), at token 2 of a row of 3"
    )


async def test_a_transfer_without_a_probe_is_refused() -> None:
    async with a_generator() as generator:
        code, details = await refusal(generator, [manifest_message(replace(MANIFEST, probe=None))])

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "the manifest has no probe" in details
        assert generator.engine.updates == []


async def test_weights_that_do_not_fit_the_model_are_an_invalid_argument() -> None:
    async with a_generator() as generator:
        generator.engine.failure = ValueError("weights do not fit the model: 1 missing (c)")
        answer = await refusal(generator, transfer())

    assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "weights do not fit the model: 1 missing (c)")


async def test_a_transfer_without_messages_ends_at_the_deadline() -> None:
    async with a_generator(message_seconds=1) as generator:
        code, details = await refusal(generator, transfer()[:2])

        assert (code, details) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no message of the transfer for 1 s")
        requested, _ = await generator.answers(transfer(begin=8))
        assert requested.wanted.offset == 8
        assert len(generator.engine.updates) == 1


async def test_a_chunk_may_be_larger_than_the_default_limit_of_4_mib() -> None:
    tensors = {"large": torch.zeros(2 * 2**20)}
    manifest = await asyncio.to_thread(manifest_of, tensors)

    async with a_generator() as generator:
        response = await generator.send([manifest_message(manifest), message_of(bytes(8 * 2**20))])

    assert response.digest == manifest.digest


async def test_the_token_is_demanded_of_every_transfer() -> None:
    async with a_generator(token="correct horse") as generator:
        code, _ = await refusal(generator, transfer())
        *_, response = await generator.answers(transfer(), metadata=call_metadata("correct horse"))

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert response.policy_version == 1


@pytest.mark.parametrize("service", ["", "tppo.v1.GenerationService"])
async def test_the_health_check_answers(service: str) -> None:
    async with a_generator() as generator:
        stub = health_pb2_grpc.HealthStub(generator.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_SECONDS)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_service() -> None:
    async with a_generator() as generator:
        stub = reflection_pb2_grpc.ServerReflectionStub(generator.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([question]), timeout=DEADLINE_SECONDS)]

    assert "tppo.v1.GenerationService" in {one.name for one in answers[0].list_services_response.service}


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    engine = FakeEngine()
    intake = WeightIntake(ServedWeights(engine), announcing(), run="mine", name="g0")
    async with weight_server(intake, GenerationSection(), token="") as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"generation.port = {port}: cannot listen on 127.0.0.1"):
            await weight_server(intake, GenerationSection(port=port), token="").__aenter__()


async def test_an_engine_that_is_proven_wrong_ends_the_generator() -> None:
    engine = FakeEngine(policy_version=-1)
    engine.failure = ProbeError("the engine differs by 3 nats")
    weights, ended = ServedWeights(engine), list[str]()
    weights.on_refusal = lambda: ended.append("worker")

    with pytest.raises(ProbeError):
        await weights.take(WeightUpdate(1, incarnation=0, digest="", tensors={}))

    assert (weights.refusal, ended) == (engine.failure, ["worker"])
