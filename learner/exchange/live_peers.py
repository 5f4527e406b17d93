"""The peers of a live run: found by their heartbeats in Redis, sent weights over gRPC.

A transfer is the manifest, then the bytes that the generator requests. One on this machine requests none, as it opens
the snapshot's memory. To any other the chunks go from the snapshot itself, or it is sent the address of a generator
that has them. Each message has a deadline; the next attempt goes on behind what has arrived.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

import grpc
import grpc.aio

from learner.exchange.sleeping_engines import TrainedWeights
from learner.exchange.weight_offers import OfferedWeights, WeightOffers
from learner.exchange.weight_publisher import DisprovedError, FoundGenerator, Snapshot, TransferError
from learner.exchange.weight_sources import LEARNER, WeightRoute, WeightSources, stream_seconds
from tppo.announced_weights import AnnouncedWeights
from tppo.generation_totals import GenerationTally, GenerationTotals
from tppo.process.cancellation import cancel_all
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.process.presence import HEARTBEAT_SECONDS, Presence, present
from tppo.security.authentication import Token, call_metadata
from tppo.security.tls import channel
from tppo.streams import StreamsError
from tppo.streams.connection import RedisClient
from tppo.v1 import generation_pb2 as pb
from tppo.weights.byte_stream import StreamOffer, connected, in_own_thread, send, shut_down
from tppo.weights.manifest import WeightPeer
from tppo.weights.messages import (
    CHUNK_BYTES,
    METHOD,
    STREAMED_MESSAGE,
    chunk_message,
    manifest_message,
    peer_message,
    stream_offer,
)

REMEMBERED_SECONDS = 24 * 3600.0  # a process whose heartbeat has been missing for longer is not reported any more
MIN_DEADLINE_SECONDS = 60.0
SLEEP_METHOD = f"{METHOD.rpartition('/')[0]}/Sleep"
SLEEP_SECONDS = 600.0  # for an engine that waits for windows of an evaluation to end
SLOWEST_BYTES_PER_SECOND = 10 * 2**20  # a transfer slower than this is aborted, and goes on in the next attempt
OFFERED = (pb.WEIGHT_SOURCE_WHOLE, pb.WEIGHT_SOURCE_DELTA)
STANDSTILL_SECONDS = 15.0  # for which the connection takes no byte
log = logging.getLogger(__name__)
WAIT_MESSAGE_SECONDS = 5.0  # between messages to a generator that waits for a source, which ends a silent call


class PresentProcesses:
    """The processes of a run, as their heartbeats in Redis show them."""

    def __init__(self, client: RedisClient, run: str) -> None:
        self._client = client
        self._run = run
        self._tally = GenerationTally()
        self._looked_at = -math.inf  # for generators

    async def find_generators(self) -> Mapping[str, FoundGenerator]:
        """Those that take weights now, by name."""
        return {
            one.name: FoundGenerator(one.address, one.started_at) for one in await self._generators() if one.address
        }

    async def generation_totals(self) -> GenerationTotals:
        """What all generators have done, those that have ended too; as of a heartbeat ago at most."""
        if time.monotonic() > self._looked_at + HEARTBEAT_SECONDS:
            await self._generators()
        return self._tally.totals()

    async def all_processes(self) -> list[Presence]:
        """All processes of the last day."""
        return await present(self._client, self._run, gone_after_seconds=REMEMBERED_SECONDS)

    async def _generators(self) -> list[Presence]:
        found = await present(self._client, self._run, ["generation"])
        self._tally.observe_all(found)
        self._looked_at = time.monotonic()
        return found


class GrpcTransport:
    """Calls of the generators' `UpdateWeights`."""

    def __init__(
        self,
        announce: Callable[[AnnouncedWeights], Awaitable[None]],
        token: Token = "",
        *,
        chunk_bytes: int = CHUNK_BYTES,
        standstill_seconds: float = STANDSTILL_SECONDS,
        sources: WeightSources | None = None,
    ) -> None:
        """`announce` writes what is sent where generators look it up; `token` is theirs."""
        self._announce = announce
        self._chunk_bytes, self._standstill_seconds = chunk_bytes, standstill_seconds
        self._token = token
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._unconnected: set[str] = set()  # to which there is no way beside the calls
        self.offers = WeightOffers()
        self.sources = sources or WeightSources()

    async def send(self, address: str, snapshot: Snapshot) -> None:
        """See `Transport`; announced first, and what the generator loaded must have the snapshot's digest."""
        self.sources.expect(address)
        offer = await self.offers.of(snapshot)
        try:
            await self._announce(AnnouncedWeights(snapshot.incarnation, snapshot.policy_version, offer.manifest.digest))
        except StreamsError as error:
            raise TransferError(f"cannot announce the weights: {error}") from error
        manifest = replace(offer.manifest, relayed=self.sources.are_relayed)
        attempt = Attempt(
            self._call(address, snapshot),
            replace(offer, manifest=manifest),
            WeightRoute(self.sources, address),
            partial(self._connected, address),
            chunk_bytes=self._chunk_bytes,
            standstill_seconds=self._standstill_seconds,
        )
        try:
            response = await attempt.answer()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DATA_LOSS:
                raise DisprovedError(error.details() or "") from error
            raise TransferError(f"{error.code().name}: {error.details()}", num_held=attempt.num_held) from error
        if response.digest != manifest.digest:
            raise TransferError(f"the generator loaded digest {response.digest}, not {manifest.digest}")
        requested = attempt.num_held >= 0
        self.sources.settle(address, manifest.digest, is_kept=requested and manifest.relayed, takes_bytes=requested)

    async def let_sleep(self, address: str, weights: TrainedWeights) -> None:
        """See `LetSleep`."""
        method: grpc.aio.UnaryUnaryMultiCallable[pb.SleepRequest, pb.SleepResponse]
        method = self._channel(address).unary_unary(
            SLEEP_METHOD,
            request_serializer=pb.SleepRequest.SerializeToString,
            response_deserializer=pb.SleepResponse.FromString,
        )
        request = pb.SleepRequest(
            run=weights.run, incarnation=weights.incarnation, policy_version=weights.policy_version
        )
        try:
            await method(request, timeout=SLEEP_SECONDS, metadata=call_metadata(self._token))
        except grpc.aio.AioRpcError as error:
            raise TransferError(f"{error.code().name}: {error.details()}") from error

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = channel(address, CHANNEL_OPTIONS)
        return self._channels[address]

    def _call(self, address: str, snapshot: Snapshot) -> "grpc.aio.StreamStreamCall[bytes, pb.UpdateWeightsResponse]":
        opened = self._channel(address)
        method: grpc.aio.StreamStreamMultiCallable[bytes, pb.UpdateWeightsResponse]
        method = opened.stream_stream(METHOD, response_deserializer=pb.UpdateWeightsResponse.FromString)
        deadline = MIN_DEADLINE_SECONDS + snapshot.num_bytes / SLOWEST_BYTES_PER_SECOND
        return method(timeout=deadline, metadata=call_metadata(self._token))

    async def _connected(self, address: str, offer: StreamOffer) -> socket.socket | None:
        if address in self._unconnected:
            return None
        connection = await connected(address, offer)
        if connection is None:
            self._unconnected.add(address)
        return connection

    async def forget(self, address: str) -> None:
        """See `Transport`."""
        self.sources.forget(address)
        self._unconnected.discard(address)
        opened = self._channels.pop(address, None)
        if opened is not None:
            await opened.close()

    async def close(self) -> None:
        """Ends all connections."""
        for opened in self._channels.values():
            await opened.close()


class Attempt:
    """One call, from the manifest to the generator's last answer."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[bytes, pb.UpdateWeightsResponse]",
        offer: OfferedWeights,
        route: WeightRoute,
        connect: Callable[[StreamOffer], Awaitable[socket.socket | None]],
        *,
        chunk_bytes: int,
        standstill_seconds: float,
    ) -> None:
        self.num_held = -1  # bytes that the generator said it has from earlier attempts
        self._call = call
        self._offer = offer
        self._route = route
        self._connect = connect
        self._chunk_bytes, self._standstill_seconds = chunk_bytes, standstill_seconds

    async def answer(self) -> pb.UpdateWeightsResponse:
        """What it serves in the end. Raises `TransferError`, and gRPC's errors."""
        try:
            await self._write(await asyncio.to_thread(manifest_message, self._offer.manifest))
            answer = await self._read()
            while answer.HasField("wanted"):
                answer = await self._serve(answer.wanted)
            return answer
        finally:
            self._route.end()
            self._call.cancel()

    async def _read(self) -> pb.UpdateWeightsResponse:
        answer = await self._call.read()
        if not isinstance(answer, pb.UpdateWeightsResponse):
            raise TransferError("the generator has ended the transfer without an answer", num_held=self.num_held)
        return answer

    async def _serve(self, wanted: pb.WantedWeights) -> pb.UpdateWeightsResponse:
        """The generator's next answer."""
        is_whole = wanted.source == pb.WEIGHT_SOURCE_WHOLE
        data = self._offer.file.data if is_whole else memoryview(self._offer.delta_data)
        if wanted.source not in OFFERED or not 0 <= wanted.offset <= len(data):
            raise TransferError(f"the generator requests source {wanted.source} from byte {wanted.offset} on")
        self._offer.was_requested()
        self.num_held = wanted.offset
        if is_whole:
            await self._send_whole(wanted)
        else:
            await self._send(data[wanted.offset :])
        return await self._read()

    async def _send_whole(self, wanted: pb.WantedWeights) -> None:
        """By whoever is to send them, over a connection where there is one."""
        data = self._offer.file.data[wanted.offset :]
        seconds = stream_seconds(len(data))
        source = await self._source(seconds, peer_failed=wanted.peer_failed)
        if source != LEARNER:
            await self._write(peer_message(WeightPeer(source, seconds)))
            return
        connection = await self._connect(stream_offer(wanted.stream)) if wanted.HasField("stream") else None
        if connection is None:
            await self._send(data)
        else:
            await self._send_streamed(connection, wanted.offset)
        self._route.end()

    async def _send_streamed(self, connection: socket.socket, offset: int) -> None:
        """Where it breaks, the generator ends the call, and says why."""
        self._call.add_done_callback(lambda _: shut_down(connection))
        try:
            await self._write(STREAMED_MESSAGE)
        except BaseException:
            connection.close()
            raise
        try:
            await in_own_thread(connection, partial(send, file=self._offer.file, begin=offset))
        except OSError as error:
            log.info("a connection for weights has ended: %s", error)

    async def _source(self, seconds: float, *, peer_failed: bool) -> str:
        """The generator is sent a message now and then while it waits."""
        digest = self._offer.manifest.digest
        choosing = asyncio.create_task(self._route.choose(digest, seconds, peer_failed=peer_failed))
        try:
            while not (await asyncio.wait([choosing], timeout=WAIT_MESSAGE_SECONDS))[0]:
                await self._write(peer_message(WeightPeer("", seconds)))
            return choosing.result()
        finally:
            await cancel_all([choosing])

    async def _send(self, data: memoryview) -> None:
        for begin in range(0, len(data), self._chunk_bytes):
            await self._write(await asyncio.to_thread(chunk_message, data[begin : begin + self._chunk_bytes]))

    async def _write(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(self._standstill_seconds):
                await self._call.write(message)
        except TimeoutError:
            text = f"the generator has taken nothing for {self._standstill_seconds:g} s"
            raise TransferError(text, num_held=self.num_held) from None
        except asyncio.InvalidStateError:  # it has ended the call already
            text = f"{(await self._call.code()).name}: {await self._call.details()}"
            raise TransferError(text, num_held=self.num_held) from None
