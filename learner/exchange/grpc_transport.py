"""The way of weights to a generator over gRPC."""

import grpc

from learner.exchange.weight_publisher import Snapshot, TransferError
from tppo import weights
from tppo.grpc_server import CHANNEL_OPTIONS
from tppo.tls import channel
from tppo.v1 import generation_pb2 as pb
from tppo.v1 import generation_pb2_grpc as pb_grpc

MIN_DEADLINE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 10 * 2**20  # a transfer slower than this is aborted


class GrpcTransport:
    """A stream of chunks to the generator's `UpdateWeights`."""

    def __init__(self, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._metadata = metadata
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def send(self, address: str, snapshot: Snapshot) -> None:
        """See `Transport`; what the generator loaded must have the snapshot's digest."""
        if address not in self._channels:
            self._channels[address] = channel(address, CHANNEL_OPTIONS)
        stub = pb_grpc.GenerationServiceStub(self._channels[address])
        deadline = MIN_DEADLINE_SECONDS + snapshot.num_bytes / SLOWEST_BYTES_PER_SECOND
        messages = weights.to_messages(
            snapshot.tensors,
            run=snapshot.run,
            policy_version=snapshot.policy_version,
            incarnation=snapshot.incarnation,
            known_digest=snapshot.digest,
        )
        try:
            response: pb.UpdateWeightsResponse = await stub.UpdateWeights(
                messages, timeout=deadline, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise TransferError(f"{error.code().name}: {error.details()}") from error
        if response.digest != snapshot.digest:
            raise TransferError(f"the generator loaded digest {response.digest}, not {snapshot.digest}")

    async def close(self) -> None:
        """Ends all connections."""
        for opened in self._channels.values():
            await opened.close()
