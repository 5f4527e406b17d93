"""The gRPC side of a generator: takes weights from the learner, or by its order from another generator.

`UpdateWeights` consumes a manifest, then the chunks that it requests / waits for each message, `message_seconds` at
most, then for the engine's moment / unblocked by the learner, by that deadline, or by the end of the call / produces
weights in use. Whatever goes wrong, the engine goes on with those that it has.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc
import grpc.aio

from services.generation.weights.served_weights import ServedWeights, StaleWeightsError, WeightIdentity
from services.generation.weights.weight_proof import DisprovedWeightsError
from services.generation.weights.weight_reception import (
    DeltaReception,
    OtherTransferError,
    Reception,
    Receptions,
    WeightSource,
)
from services.generation.weights.weight_relay import WeightRelay
from tppo.announced_weights import AnnouncedWeights
from tppo.config.sections.devices import Sleep
from tppo.security.authentication import Token
from tppo.streams import StreamsError
from tppo.v1 import generation_pb2 as pb
from tppo.weight_probe import WeightProbe
from tppo.weights import WeightUpdate
from tppo.weights.byte_stream import ByteStreams, ExpectedStream, in_own_thread, receive
from tppo.weights.manifest import Manifest, WeightPeer
from tppo.weights.messages import METHOD, READ_METHOD, Streamed, parsed, stream_message

SERVICE_NAME, METHOD_NAME = METHOD.strip("/").split("/")
MESSAGE_SECONDS = 15.0  # without a message; a transfer whose peer is gone ends

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
Messages = AsyncIterator[bytes]


class OtherRunError(Exception):
    """Weights of another run."""


class UnannouncedWeightsError(Exception):
    """Weights that the learner has not announced."""


class UnknownAnnouncementError(Exception):
    """Nobody can say now what the learner has announced."""


class PeerFailedError(Exception):
    """The peer that the learner named has not sent all bytes."""


class EndedEarlyError(Exception):
    """The learner has ended the transfer before all bytes were there; those that are there are good."""


STATUSES: Mapping[type[Exception], grpc.StatusCode] = {
    StaleWeightsError: grpc.StatusCode.FAILED_PRECONDITION,
    OtherRunError: grpc.StatusCode.FAILED_PRECONDITION,
    UnannouncedWeightsError: grpc.StatusCode.FAILED_PRECONDITION,
    OtherTransferError: grpc.StatusCode.ABORTED,
    EndedEarlyError: grpc.StatusCode.INVALID_ARGUMENT,
    ValueError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownAnnouncementError: grpc.StatusCode.UNAVAILABLE,
    DisprovedWeightsError: grpc.StatusCode.DATA_LOSS,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What ends a transfer."""
SOURCES = {WeightSource.WHOLE: pb.WEIGHT_SOURCE_WHOLE, WeightSource.DELTA: pb.WEIGHT_SOURCE_DELTA}


class WeightIntake:
    """Serves `tppo.v1.GenerationService`."""

    def __init__(
        self,
        weights: ServedWeights,
        announced: Callable[[], Awaitable[AnnouncedWeights | None]],
        *,
        run: str,
        name: str,
        token: Token = "",
        sleep: Sleep = "off",
        shares_memory: bool = True,
        message_seconds: float = MESSAGE_SECONDS,
    ) -> None:
        """`announced`: the newest weights that the learner has announced; may raise `StreamsError`.

        `token`: of all generators of the run, from which the learner may have weights read. `sleep`: what the engine
        frees while the learner trains. `shares_memory`: whether weights are taken from the learner's memory.
        """
        self._weights, self._sleep = weights, sleep
        self._announced = announced
        self._run = run
        self._name = name
        self._message_seconds = message_seconds
        self.receptions = Receptions(shares_memory=shares_memory)
        self.streams = ByteStreams()
        self.relay = WeightRelay(self.receptions, self.streams, token=token)

    async def update_weights(self, messages: Messages, context: Context) -> AsyncIterator[pb.UpdateWeightsResponse]:
        """Replaces the weights."""
        try:
            async for answer in self._answers(aiter(messages)):
                yield answer
        except tuple(STATUSES) as error:
            code = next(code for kind, code in STATUSES.items() if isinstance(error, kind))
            text = str(error) or f"no message of the transfer for {self._message_seconds:g} s"
            log.warning("weights are not taken: %s", text)  # the learner does not hear of it while it sends
            await context.abort(code, text)

    async def sleep(self, request: pb.SleepRequest, context: Context) -> pb.SleepResponse:
        """Lets the engine free its memory: the learner is about to train on the same device."""
        identity = WeightIdentity(request.incarnation, request.policy_version)
        try:
            if request.run != self._run:
                raise OtherRunError(f"the learner of run {request.run!r} trains; {self._name} serves {self._run!r}")
            if self._sleep != "off":
                await self._weights.sleep(identity, keeps_weights=self._sleep == "kv_cache")
                log.info("the engine sleeps while the learner trains %s", identity)
        except (OtherRunError, StaleWeightsError) as error:
            await context.abort(STATUSES[type(error)], str(error))
        return pb.SleepResponse()

    async def _answers(self, messages: Messages) -> AsyncIterator[pb.UpdateWeightsResponse]:
        """What is requested of the learner, then what is in use."""
        manifest = await self._manifest(messages)
        update = await asyncio.to_thread(self.receptions.shared, manifest)
        has_arrived, peer_failed = update is None, False
        while update is None:
            reception = await asyncio.to_thread(self.receptions.begin, manifest, messages)
            is_whole = reception.source is WeightSource.WHOLE
            expected = self.streams.expect(reception.num_missing) if is_whole else None
            yield pb.UpdateWeightsResponse(wanted=_wanted(reception, expected, peer_failed=peer_failed))
            try:
                update, peer_failed = await self._received(reception, messages, expected), False
            except PeerFailedError:
                peer_failed = True
        await self._take(update, manifest.probe)
        self.receptions.took(manifest, update, has_arrived=has_arrived)
        identity = self._weights.identity
        assert identity is not None
        yield pb.UpdateWeightsResponse(
            policy_version=identity.policy_version, incarnation=identity.incarnation, digest=self._weights.digest
        )

    async def _manifest(self, messages: Messages) -> Manifest:
        """What need not be read to the end is refused here."""
        message = await self._next(messages)
        if message is None:
            raise ValueError("the weight transfer ended before its manifest")
        manifest = await asyncio.to_thread(parsed, message)
        if not isinstance(manifest, Manifest):
            raise ValueError("the weight transfer brought a chunk before its manifest")
        await self._check(manifest)
        return manifest

    async def _received(
        self, reception: Reception | DeltaReception, messages: Messages, expected: ExpectedStream | None
    ) -> WeightUpdate | None:
        """All bytes that were missing; those of a transfer that breaks are kept for the next attempt.

        None: a delta does not lead to the manifest's weights, which are to come whole.
        """
        while reception.num_missing:
            message = await self._next(messages)
            if message is None:
                raise EndedEarlyError(_short(reception))
            try:
                source = await asyncio.to_thread(_added, reception, message, messages)
                if isinstance(source, Streamed):
                    await _receive_streamed(expected, reception, messages)
            except ValueError:
                self.receptions.drop()
                raise
            if isinstance(source, WeightPeer) and source.address:
                await self._read_from(source, reception, messages)
        try:
            return await asyncio.to_thread(self.receptions.completed, reception, messages)
        except ValueError as error:
            if reception.source is not WeightSource.DELTA:
                raise
            log.warning("weights come whole: %s", error)
            self.receptions.drop()
            return None

    async def _read_from(self, peer: WeightPeer, reception: Reception | DeltaReception, messages: Messages) -> None:
        if not isinstance(reception, Reception):
            raise ValueError("the learner names a peer for a delta; expected one for all bytes")
        if not await self.relay.has_read(peer, reception, messages):
            raise PeerFailedError

    async def _take(self, update: WeightUpdate, probe: WeightProbe | None) -> None:
        """What has arrived is kept for the next attempt only where this one is cancelled in here."""
        try:
            await self._weights.take(update, probe)
        except (ValueError, DisprovedWeightsError):
            self.receptions.drop()
            raise

    async def _next(self, messages: Messages) -> bytes | None:
        async with asyncio.timeout(self._message_seconds):
            return await anext(messages, None)

    async def _check(self, manifest: Manifest) -> None:
        if manifest.run != self._run:
            raise OtherRunError(f"these are weights of run {manifest.run!r}; {self._name} serves {self._run!r}")
        if manifest.probe is None:
            raise ValueError("the manifest has no probe; expected rows by which the weights are proved")
        identity = WeightIdentity(manifest.incarnation, manifest.policy_version)
        self._weights.refuse_older(identity)
        try:
            announced = await self._announced()
        except StreamsError as error:
            raise UnknownAnnouncementError(f"whether the weights were announced: {error}") from error
        newest = None if announced is None else WeightIdentity(announced.incarnation, announced.policy_version)
        if announced is None or newest is None or identity > newest:
            raise UnannouncedWeightsError(f"{identity} was not announced by the learner; its newest is {newest}")
        if identity == newest and manifest.digest != announced.digest:
            raise UnannouncedWeightsError(f"{identity} has digest {manifest.digest}; announced was {announced.digest}")


def _wanted(
    reception: Reception | DeltaReception, expected: ExpectedStream | None, *, peer_failed: bool
) -> pb.WantedWeights:
    return pb.WantedWeights(
        source=SOURCES[reception.source],
        offset=reception.num_received,
        peer_failed=peer_failed,
        stream=None if expected is None else stream_message(expected.offer),
    )


def _added(reception: Reception | DeltaReception, message: bytes, owner: object) -> WeightPeer | Streamed | None:
    """Where the bytes come from, where the message says that in place of a chunk."""
    part = parsed(message)
    if isinstance(part, Manifest):
        raise ValueError("the weight transfer brought a second manifest")
    if not isinstance(part, memoryview):
        return part
    reception.add(part, owner)
    return None


async def _receive_streamed(
    expected: ExpectedStream | None, reception: Reception | DeltaReception, owner: object
) -> None:
    """All bytes that were missing. Raises `EndedEarlyError`, and ValueError."""
    if expected is None:
        raise ValueError("the learner says that the bytes come over a connection; none was offered")
    take = partial(reception.add, owner=owner)
    try:
        connection = await expected.arrival()
        await in_own_thread(connection, partial(receive, num_bytes=reception.num_missing, take=take))
    except OSError as error:  # among them the end of waiting
        raise EndedEarlyError(f"{_short(reception)}: {error or 'no byte came in time'}") from None
    if reception.num_missing:
        raise EndedEarlyError(_short(reception))


def _short(reception: Reception | DeltaReception) -> str:
    return f"the weight transfer ended {reception.num_missing} bytes short of its manifest"


def registration(intake: WeightIntake) -> Callable[[grpc.aio.Server], None]:
    """Adds the intake to a server; weights come as they are on the wire."""
    handler: grpc.RpcMethodHandler[bytes, pb.UpdateWeightsResponse]
    handler = grpc.stream_stream_rpc_method_handler(
        intake.update_weights, response_serializer=pb.UpdateWeightsResponse.SerializeToString
    )
    reading: grpc.RpcMethodHandler[pb.ReadWeightsRequest, bytes]
    reading = grpc.unary_stream_rpc_method_handler(
        intake.relay.read_weights, request_deserializer=pb.ReadWeightsRequest.FromString
    )
    sleep: grpc.RpcMethodHandler[pb.SleepRequest, pb.SleepResponse]
    sleep = grpc.unary_unary_rpc_method_handler(
        intake.sleep, pb.SleepRequest.FromString, pb.SleepResponse.SerializeToString
    )
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
    handlers = {METHOD_NAME: handler, READ_METHOD.rpartition("/")[2]: reading, "Sleep": sleep}
    return partial(_add_handler, grpc.method_handlers_generic_handler(SERVICE_NAME, handlers))


def _add_handler(handler: grpc.GenericRpcHandler, server: grpc.aio.Server) -> None:
    server.add_generic_rpc_handlers((handler,))
