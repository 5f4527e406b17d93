"""Weights between generators: what is kept here is read by others, and what the learner does not send is read from one.

Whoever sends the bytes, their digests are the learner's. So of a generator that fails, is slow or sends others, nothing
stays but whole tensors that were found right, and the learner is requested to send the rest.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import grpc.aio

from services.generation.weights.weight_reception import Reception, Receptions
from tppo.codec import parsed_message
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.security.authentication import Token, call_metadata
from tppo.security.tls import channel
from tppo.v1 import generation_pb2 as pb
from tppo.weights import MemoryFile
from tppo.weights.byte_stream import ByteStreams, ExpectedStream, StreamOffer, connected, in_own_thread, receive, send
from tppo.weights.manifest import WeightPeer
from tppo.weights.messages import (
    CHUNK_BYTES,
    READ_METHOD,
    chunk_in,
    chunk_message,
    is_chunk,
    stream_message,
    stream_offer,
)

MAX_READERS = 8  # at once; the learner sends fewer
MESSAGE_SECONDS = 5.0  # without a byte of a generator, after which the learner is requested to send them

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class WeightRelay:
    """Serves `ReadWeights`, and calls that of others."""

    def __init__(
        self, receptions: Receptions, streams: ByteStreams, *, token: Token, message_seconds: float = MESSAGE_SECONDS
    ) -> None:
        """`token` is that of all generators of the run."""
        self._receptions = receptions
        self._streams = streams
        self._token = token
        self._message_seconds = message_seconds
        self._num_readers = 0

    async def read_weights(self, request: pb.ReadWeightsRequest, context: Context) -> AsyncIterator[bytes]:
        """The bytes from the offset on, as messages."""
        file = self._receptions.kept(request.digest)
        if file is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no weights with digest {request.digest} are kept here")
        if not 0 <= request.offset <= len(file.data):
            text = f"offset = {request.offset}; expected at most {len(file.data)}, the size of the weights"
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, text)
        if context.time_remaining() is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no deadline; expected one")
        if self._num_readers >= MAX_READERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_READERS} others read weights here already")
        self._num_readers += 1
        try:
            data = file.data[request.offset :]
            expected = self._streams.expect(len(data)) if request.streams else None
            if expected is not None:
                yield pb.ReadWeightsResponse(stream=stream_message(expected.offer)).SerializeToString()
                await _send_streamed(expected, file, request.offset)
                return
            for begin in range(0, len(data), CHUNK_BYTES):
                yield await asyncio.to_thread(chunk_message, data[begin : begin + CHUNK_BYTES])
        finally:
            self._num_readers -= 1

    async def has_read(self, peer: WeightPeer, reception: Reception, owner: object) -> bool:
        """Whether all bytes came from the generator; else those are kept that are certainly right."""
        try:
            async with asyncio.timeout(peer.seconds), channel(peer.address, CHANNEL_OPTIONS) as opened:
                await self._read(opened, peer, reception, owner)
            if not reception.num_missing:
                return True
            reason = "it ended before all bytes were there"
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except TimeoutError:
            reason = f"no byte for {self._message_seconds:g} s, or not all within {peer.seconds:g} s"
        except (OSError, ValueError) as error:
            reason = str(error)
        log.warning("weights from %s: %s; the learner is requested to send the rest", peer.address, reason)
        await asyncio.to_thread(reception.rewind, owner)
        return False

    async def _read(self, opened: grpc.aio.Channel, peer: WeightPeer, reception: Reception, owner: object) -> None:
        """Over a connection where there is one, else by messages of the call."""
        for streams in (True, False):
            call = self._call(opened, peer, reception, streams=streams)
            try:
                offer = await self._read_messages(call, reception, owner)
                connection = await connected(peer.address, offer) if offer is not None else None
                if connection is not None:
                    await self._read_streamed(connection, reception, owner)
                if offer is None or connection is not None:
                    return
            finally:
                call.cancel()

    def _call(
        self, opened: grpc.aio.Channel, peer: WeightPeer, reception: Reception, *, streams: bool
    ) -> "grpc.aio.UnaryStreamCall[pb.ReadWeightsRequest, bytes]":
        method: grpc.aio.UnaryStreamMultiCallable[pb.ReadWeightsRequest, bytes]
        method = opened.unary_stream(READ_METHOD, request_serializer=pb.ReadWeightsRequest.SerializeToString)
        digest, offset = reception.manifest.digest, reception.num_received
        request = pb.ReadWeightsRequest(digest=digest, offset=offset, streams=streams)
        return method(request, timeout=peer.seconds, metadata=call_metadata(self._token))

    async def _read_messages(
        self, call: "grpc.aio.UnaryStreamCall[pb.ReadWeightsRequest, bytes]", reception: Reception, owner: object
    ) -> StreamOffer | None:
        """Over which connection the bytes come, where they do not come in messages."""
        while reception.num_missing:
            async with asyncio.timeout(self._message_seconds):
                message = await call.read()
            if not isinstance(message, bytes):
                return None
            offer = await asyncio.to_thread(_added, reception, message, owner)
            if offer is not None:
                return offer
        return None

    async def _read_streamed(self, connection: socket.socket, reception: Reception, owner: object) -> None:
        take = partial(reception.add, owner=owner)
        work = partial(receive, num_bytes=reception.num_missing, take=take)
        await in_own_thread(connection, work, standstill_seconds=self._message_seconds)


async def _send_streamed(expected: ExpectedStream, file: MemoryFile, offset: int) -> None:
    """Where it breaks, the reader goes on elsewhere."""
    try:
        await in_own_thread(await expected.arrival(), partial(send, file=file, begin=offset))
    except OSError as error:  # among them the end of waiting
        log.info("another generator reads no weights any more: %s", error)


def _added(reception: Reception, message: bytes, owner: object) -> StreamOffer | None:
    """The offer, where the message is one in place of a chunk."""
    if is_chunk(message):
        reception.add(chunk_in(message), owner)
        return None
    answer = parsed_message(pb.ReadWeightsResponse(), message)
    if not answer.HasField("stream"):
        raise ValueError("a message of a generator holds neither a chunk nor a connection")
    return stream_offer(answer.stream)
