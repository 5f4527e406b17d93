"""Weights between generators: what is kept here is read by others, and what the learner does not send is read from one.

Whoever sends the bytes, their digests are the learner's. So of a generator that fails, is slow or sends others, nothing
stays but whole tensors that were found right, and the learner is requested to send the rest.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from services.generation.weight_reception import Reception, Receptions
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.security.authentication import call_metadata
from tppo.security.tls import channel
from tppo.v1 import generation_pb2 as pb
from tppo.weights.manifest import WeightPeer
from tppo.weights.messages import CHUNK_BYTES, READ_METHOD, chunk_message, parsed

MAX_READERS = 8  # at once; the learner sends fewer
MESSAGE_SECONDS = 5.0  # without a byte of a generator, after which the learner is requested to send them

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class WeightRelay:
    """Serves `ReadWeights`, and calls that of others."""

    def __init__(self, receptions: Receptions, *, token: str, message_seconds: float = MESSAGE_SECONDS) -> None:
        """`token` is that of all generators of the run."""
        self._receptions = receptions
        self._metadata = call_metadata(token)
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
            for begin in range(0, len(data), CHUNK_BYTES):
                yield await asyncio.to_thread(chunk_message, data[begin : begin + CHUNK_BYTES])
        finally:
            self._num_readers -= 1

    async def has_read(self, peer: WeightPeer, reception: Reception, owner: object) -> bool:
        """Whether all bytes came from the generator; else those are kept that are certainly right."""
        try:
            async with channel(peer.address, CHANNEL_OPTIONS) as opened:
                await self._read(opened, peer, reception, owner)
            if not reception.num_missing:
                return True
            reason = "it ended before all bytes were there"
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except TimeoutError:
            reason = f"no byte for {self._message_seconds:g} s"
        except ValueError as error:
            reason = str(error)
        log.warning("weights from %s: %s; the learner is requested to send the rest", peer.address, reason)
        await asyncio.to_thread(reception.rewind, owner)
        return False

    async def _read(self, opened: grpc.aio.Channel, peer: WeightPeer, reception: Reception, owner: object) -> None:
        method: grpc.aio.UnaryStreamMultiCallable[pb.ReadWeightsRequest, bytes]
        method = opened.unary_stream(READ_METHOD, request_serializer=pb.ReadWeightsRequest.SerializeToString)
        request = pb.ReadWeightsRequest(digest=reception.manifest.digest, offset=reception.num_received)
        call = method(request, timeout=peer.seconds, metadata=self._metadata)
        try:
            while reception.num_missing:
                async with asyncio.timeout(self._message_seconds):
                    message = await call.read()
                if not isinstance(message, bytes):
                    return
                await asyncio.to_thread(_add, reception, message, owner)
        finally:
            call.cancel()


def _add(reception: Reception, message: bytes, owner: object) -> None:
    chunk = parsed(message)
    if not isinstance(chunk, memoryview):
        raise ValueError(f"a generator has sent a {type(chunk).__name__}; expected a chunk")
    reception.add(chunk, owner)
