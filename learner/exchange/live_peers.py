"""The peers of a live run: found by their heartbeats in Redis, sent weights over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

import grpc

from learner.exchange.weight_publisher import FoundGenerator, Snapshot, TransferError
from tppo.announced_weights import AnnouncedWeights
from tppo.generation_totals import GenerationTally, GenerationTotals
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.process.presence import Presence, present
from tppo.security.tls import channel
from tppo.streams import StreamsError
from tppo.streams.connection import RedisClient
from tppo.v1 import generation_pb2 as pb
from tppo.v1 import generation_pb2_grpc as pb_grpc
from tppo.weights.messages import to_messages

MIN_DEADLINE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 10 * 2**20  # a transfer slower than this is aborted
REMEMBERED_SECONDS = 24 * 3600.0  # a process whose heartbeat has been missing for longer is not reported any more


class PresentProcesses:
    """The processes of a run, as their heartbeats in Redis show them."""

    def __init__(self, client: RedisClient, run: str) -> None:
        self._client = client
        self._run = run
        self._generators = GenerationTally()

    async def find_generators(self) -> Mapping[str, FoundGenerator]:
        """Those that take weights now, by name."""
        generators = [one for one in await self._present() if one.kind == "generation" and one.address]
        return {one.name: FoundGenerator(one.address, one.started_at) for one in generators}

    async def generation_totals(self) -> GenerationTotals:
        """What all generators have done, those that have ended too."""
        self._generators.observe_all(await self._present())
        return self._generators.totals()

    async def all_processes(self) -> list[Presence]:
        """All processes of the last day."""
        return await present(self._client, self._run, gone_after_seconds=REMEMBERED_SECONDS)

    async def _present(self) -> list[Presence]:
        return await present(self._client, self._run)


class GrpcTransport:
    """A stream of chunks to the generator's `UpdateWeights`."""

    def __init__(
        self, announce: Callable[[AnnouncedWeights], Awaitable[None]], metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """`announce` writes what is sent where generators look it up; `metadata` holds their token."""
        self._announce = announce
        self._metadata = metadata
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def send(self, address: str, snapshot: Snapshot) -> None:
        """See `Transport`; announced first, and what the generator loaded must have the snapshot's digest."""
        try:
            await self._announce(AnnouncedWeights(snapshot.incarnation, snapshot.policy_version, snapshot.digest))
        except StreamsError as error:
            raise TransferError(f"cannot announce the weights: {error}") from error
        await self._send(address, snapshot)

    async def _send(self, address: str, snapshot: Snapshot) -> None:
        if address not in self._channels:
            self._channels[address] = channel(address, CHANNEL_OPTIONS)
        stub = pb_grpc.GenerationServiceStub(self._channels[address])
        deadline = MIN_DEADLINE_SECONDS + snapshot.num_bytes / SLOWEST_BYTES_PER_SECOND
        messages = to_messages(
            snapshot.tensors,
            run=snapshot.run,
            policy_version=snapshot.policy_version,
            incarnation=snapshot.incarnation,
            known_digest=snapshot.digest,
        )
        try:
            response: pb.UpdateWeightsResponse = await stub.UpdateWeights(
                _made_in_a_thread(messages), timeout=deadline, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise TransferError(f"{error.code().name}: {error.details()}") from error
        if response.digest != snapshot.digest:
            raise TransferError(f"the generator loaded digest {response.digest}, not {snapshot.digest}")

    async def close(self) -> None:
        """Ends all connections."""
        for opened in self._channels.values():
            await opened.close()


async def _made_in_a_thread(messages: "Iterator[pb.UpdateWeightsRequest]") -> "AsyncIterator[pb.UpdateWeightsRequest]":
    """Together they are a copy of the weights."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message
