"""What it takes to bring weights to a generator, beside a plain copy and a plain stream of the same bytes in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.weight_transfer --megabytes 1 64 1024

Both ends run in this process, so CPU seconds are those of both; the engine is one that only takes the update. The stall
is what the decode thread of our engine stands still for: the switch to weights that another thread has prepared.
Figures are per GiB of bfloat16; compare them within a run.
"""

import argparse
import asyncio
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import torch
from transformers import LlamaConfig

from benchmarks.as_in_a_run import compute_as_in_a_run
from learner.exchange.live_peers import GrpcTransport
from learner.exchange.weight_publisher import Snapshot
from services.generation.build import make_decoder, weight_server
from services.generation.engine import ProbeAnswer
from services.generation.transformers_engine.decoders.model_weights import weight_shapes
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_intake import WeightIntake
from tppo.announced_weights import AnnouncedWeights
from tppo.config.sections.generation import GenerationSection
from tppo.process.grpc_server import CHANNEL_OPTIONS, SERVER_OPTIONS
from tppo.rollout import logprobs
from tppo.weight_probe import ProbeRow, WeightProbe
from tppo.weights import WeightUpdate, byte_stream
from tppo.weights.messages import CHUNK_BYTES, METHOD, chunk_message

GIB = 2**30
MIB = 2**20
PIECE = 8 * MIB  # numbers of one tensor, 16 MiB
CHANGED_SHARES = (0.001, 0.01, 0.1)


PROBE = WeightProbe((ProbeRow((1,), (2,)),), (logprobs([-1.0]),), temperature=1.0)


class NoEngine:
    """Takes any update."""

    policy_version = -1

    async def update_weights(self, update: WeightUpdate) -> str:
        """Nothing is loaded."""
        self.policy_version = update.policy_version
        return update.digest

    async def probe(self, rows: Sequence[ProbeRow], *, temperature: float = 1.0) -> ProbeAnswer:
        """What the learner expects."""
        return ProbeAnswer(self.policy_version, PROBE.logprobs)


class Measured:
    """Rows of the table for one size."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes

    async def row(self, name: str, work: Callable[[], Awaitable[object]]) -> Any:
        """Do the work, and print what it took."""
        cpu, wall = time.process_time(), time.perf_counter()
        result = await work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        share = GIB / self._num_bytes
        print(
            f"{self._num_bytes / MIB:8.0f} MiB  {name:44} {wall * 1000:9.1f} ms {cpu * share:8.2f} CPU-s/GiB",
            flush=True,
        )
        return result

    async def in_thread(self, name: str, work: Callable[[], object]) -> Any:
        """As `row`."""
        return await self.row(name, lambda: asyncio.to_thread(work))


def some_tensors(num_bytes: int) -> dict[str, torch.Tensor]:
    """Of 16 MiB each, and the rest."""
    numbers = torch.randn(min(num_bytes // 2, PIECE)).to(torch.bfloat16)
    sizes = [PIECE] * (num_bytes // 2 // PIECE) + [num_bytes // 2 % PIECE]
    return {f"w{index:03}": numbers[:size].clone() for index, size in enumerate(sizes) if size}


def with_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same numbers."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def with_changes(tensors: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """That share of the numbers, spread evenly, is another one."""
    copies = with_copies(tensors)
    for tensor in copies.values():
        tensor[:: round(1 / share)] += 1
    return copies


def plain_stream(data: memoryview) -> None:
    """Through a TCP connection of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sending:
        receiving, _ = server.accept()
        target = memoryview(bytearray(CHUNK_BYTES))

        def receive() -> None:
            while receiving.recv_into(target):
                pass

        thread = threading.Thread(target=receive)
        thread.start()
        for begin in range(0, len(data), CHUNK_BYTES):
            sending.sendall(data[begin : begin + CHUNK_BYTES])
        sending.shutdown(socket.SHUT_WR)
        thread.join()
        receiving.close()


async def plain_grpc_stream(data: memoryview) -> None:
    """The same messages as a transfer's, which nobody keeps."""

    async def discard(messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for _message in messages:
            pass
        yield b""

    service, name = METHOD.strip("/").split("/")
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(discard)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        call = method()
        for begin in range(0, len(data), CHUNK_BYTES):
            await call.write(await asyncio.to_thread(chunk_message, data[begin : begin + CHUNK_BYTES]))
        await call.done_writing()
        await call.read()
    await server.stop(0)


@asynccontextmanager
async def a_generator(announced: list[AnnouncedWeights], *, shares: bool) -> AsyncIterator[str]:
    """Its address."""

    async def newest() -> AnnouncedWeights | None:
        return announced[-1]

    engine: Any = NoEngine()
    intake = WeightIntake(ServedWeights(engine), newest, run="bench", name="g0", shares_memory=shares)
    async with weight_server(intake, GenerationSection(), token="") as address:
        yield address


async def transfers(measured: Measured, tensors: dict[str, torch.Tensor]) -> None:
    """By either way, and of a delta."""
    announced: list[AnnouncedWeights] = []

    async def announce(weights: AnnouncedWeights) -> None:
        announced.append(weights)

    transport, version = GrpcTransport(announce), 0

    async def next_snapshot(tensors: dict[str, torch.Tensor]) -> Snapshot:
        nonlocal version
        version += 1
        return await asyncio.to_thread(Snapshot, tensors, "bench", version, incarnation=1, probe=PROBE)

    snapshot = await measured.row("snapshot: the copy, in the training step", lambda: next_snapshot(tensors))
    data = snapshot.file.data
    await measured.in_thread("plain stream over the loopback", lambda: plain_stream(data))
    await measured.row("plain gRPC stream of the same chunks", lambda: plain_grpc_stream(data))
    await measured.in_thread("digests of the snapshot", lambda: snapshot.manifest)
    async with a_generator(announced, shares=True) as address:
        await measured.row("by shared memory: mapped and hashed", lambda: transport.send(address, snapshot))
    byte_stream.MIN_STREAMED_BYTES = sys.maxsize
    async with a_generator(announced, shares=False) as address:
        await measured.row("all bytes, gRPC messages: sent, kept, hashed", lambda: transport.send(address, snapshot))
    byte_stream.MIN_STREAMED_BYTES = 1
    async with a_generator(announced, shares=False) as address:
        await measured.row("all bytes, connection: sent, kept, hashed", lambda: transport.send(address, snapshot))
        for share in CHANGED_SHARES:
            tensors = with_changes(tensors, share)
            newer = await next_snapshot(tensors)
            await asyncio.to_thread(getattr, newer, "manifest")
            text = f"a delta of {share:.1%}: compared, sent, applied"
            await measured.row(text, partial(transport.send, address, newer))
            offer = await transport.offers.of(newer)
            print(f"{'':14}its size: {len(offer.delta_data) / max(1, len(offer.file.data)):.2%} of all bytes")
    await transport.close()


def stall(num_bytes: int) -> None:
    """Of a Llama of about this size on the fast path, in bfloat16."""
    layers = max(1, round(num_bytes / 2 / (12.5 * 1024**2)))
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 8}
    config = LlamaConfig(**sizes, vocab_size=512, num_hidden_layers=layers, max_position_embeddings=64)
    decoder = make_decoder(config, num_slots=2, capacity=48, dtype=torch.bfloat16, device=torch.device("cpu"))
    shapes = weight_shapes(config)
    tensors = {name: (torch.randn(shape) / 32).to(torch.bfloat16) for name, shape in shapes.items()}
    with torch.inference_mode():
        decoder.prepare(tensors)()
        began = time.perf_counter()
        switch = decoder.prepare(tensors)
        prepared = time.perf_counter()
        replaced = switch()
        switched = time.perf_counter()
    del replaced
    size = sum(tensor.nbytes for tensor in tensors.values()) / MIB
    print(
        f"{size:8.0f} MiB  our engine: prepared beside the decode thread in {1000 * (prepared - began):.0f} ms; "
        f"the decode thread stands still for {1000 * (switched - prepared):.2f} ms"
    )


async def measure(num_bytes: int) -> None:
    """All rows for one size."""
    measured, tensors = Measured(num_bytes), some_tensors(num_bytes)
    copies: dict[str, torch.Tensor] = {}
    await measured.in_thread("plain copy into new memory", lambda: copies.update(with_copies(tensors)))
    await measured.in_thread(
        "plain copy into used memory", lambda: [copies[name].copy_(tensor) for name, tensor in tensors.items()]
    )
    copies.clear()
    await transfers(measured, tensors)
    await asyncio.to_thread(stall, num_bytes)


def main(argv: Sequence[str]) -> int:
    """One size after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation.weight_transfer", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 16, 128], help="sizes of the weights")
    arguments = parser.parse_args(argv)
    compute_as_in_a_run()
    for megabytes in arguments.megabytes:
        asyncio.run(measure(megabytes * MIB))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
