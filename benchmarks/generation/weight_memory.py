"""What a generator of our engine holds while new weights come, by each way that they take.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.weight_memory --megabytes 256

A Llama of about this size on the fast path, in bfloat16; it has old weights in use, and takes new ones, all of them or
those of a delta of one number in a hundred. Memory is what the process shares with nobody and what its memory files
take, read every millisecond; the learner's copy, which lies in the same process here, is left out. Freed memory goes
back to the system at once here, and not into the C library's heap. Figures are in sizes of the model, beside the
weights in use.
"""

import argparse
import asyncio
import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.as_in_a_run import compute_as_in_a_run
from learner.exchange.weight_offers import OfferedWeights, WeightOffers
from learner.exchange.weight_publisher import Snapshot
from services.generation.build import make_decoder
from services.generation.transformers_engine.decoders.decoder import Decoder
from services.generation.transformers_engine.decoders.model_weights import weight_shapes
from services.generation.weights.weight_reception import Receptions
from tppo.weights.messages import CHUNK_BYTES

MIB = 2**20
LAYER_BYTES = 2 * 12.5 * MIB
CHANGED_SHARE = 0.01
M_MMAP_THRESHOLD = -3  # of malloc.h
Tensors = dict[str, torch.Tensor]


def a_config(num_bytes: int) -> LlamaConfig:
    """Of about this size."""
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 8}
    layers = max(1, round(num_bytes / LAYER_BYTES))
    return LlamaConfig(**sizes, vocab_size=512, num_hidden_layers=layers, max_position_embeddings=64)


def held() -> int:
    """Bytes of this process that are nobody else's: of its own, and in memory files that it has open."""
    with open("/proc/self/status", encoding="ascii") as file:
        anonymous = next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))
    return anonymous + sum(dict(memory_files()).values())


def memory_files() -> Iterator[tuple[int, int]]:
    """Number and bytes of each."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if "memfd:tppo-weights" in os.readlink(entry):
                found = entry.stat()
                yield found.st_ino, found.st_blocks * 512
        except OSError:  # it was closed meanwhile
            continue


@contextmanager
def watched() -> Iterator[list[int]]:
    """What is held beyond the beginning, every millisecond."""
    before, found, ends = held(), list[int](), threading.Event()

    def watch() -> None:
        while not ends.wait(0.001):
            found.append(held() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ends.set()
        thread.join()
        found.append(held() - before)


def changed(tensors: Tensors) -> Tensors:
    """One number in a hundred is another one."""
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    for tensor in copies.values():
        tensor.view(-1)[:: round(1 / CHANGED_SHARE)] += 1
    return copies


def take(decoder: Decoder, receptions: Receptions, offer: OfferedWeights, *, shares: bool) -> None:
    """As `WeightIntake` and the engine do."""
    manifest, update = offer.manifest, None
    if shares:
        update = receptions.shared(manifest)
        assert update is not None
    else:
        reception = receptions.begin(manifest, owner=None)
        data = offer.file.data if reception.source.name == "WHOLE" else memoryview(offer.delta_data)
        for begin in range(0, len(data), CHUNK_BYTES):
            reception.add(data[begin : begin + CHUNK_BYTES], owner=None)
        update = receptions.completed(reception, owner=None)
        del reception
    switch = decoder.prepare(update.tensors, update.free)
    replaced = switch()
    del replaced, switch
    receptions.took(manifest, update, has_arrived=not shares)


async def measure(num_bytes: int) -> None:
    """A row of the table for each way."""
    config = a_config(num_bytes)
    decoder = make_decoder(config, num_slots=2, capacity=48, dtype=torch.bfloat16, device=torch.device("cpu"))
    tensors = {name: (torch.randn(shape) / 32).to(torch.bfloat16) for name, shape in weight_shapes(config).items()}
    size, offers, version = sum(tensor.nbytes for tensor in tensors.values()), WeightOffers(), 0
    print(f"A model of {size / MIB:.0f} MiB, of which a layer has {LAYER_BYTES / MIB:.0f}.\n")
    print("| way | at the peak | afterwards |\n|---|---|---|")

    async def offered(tensors: Tensors, **facts: Any) -> OfferedWeights:
        nonlocal version
        version += 1
        snapshot = await asyncio.to_thread(Snapshot, tensors, "bench", version, incarnation=1)
        offer = await offers.of(snapshot)
        offer.was_requested()
        return replace(offer, manifest=replace(offer.manifest, **facts))

    async def row(name: str, receptions: Receptions, *, shares: bool = False, **facts: Any) -> None:
        nonlocal tensors
        tensors = changed(tensors)
        offer = await offered(tensors, **facts)
        with watched() as found, torch.inference_mode():
            await asyncio.to_thread(take, decoder, receptions, offer, shares=shares)
        print(f"| {name} | {max(found) / size:.2f} | {found[-1] / size:.2f} |", flush=True)

    with torch.inference_mode():
        await asyncio.to_thread(take, decoder, Receptions(), await offered(tensors), shares=True)
    await row("shared memory", Receptions(), shares=True)
    await row("all bytes, kept by nobody", Receptions(), delta=None, deltas_follow=False)
    kept = Receptions()
    await row("all bytes, the first that are kept", kept, delta=None)
    await row("all bytes, in place of others that are kept", kept, delta=None)
    await row("a delta", kept)


def main(argv: Sequence[str]) -> int:
    """One size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="size of the weights")
    compute_as_in_a_run()
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    asyncio.run(measure(parser.parse_args(argv).megabytes * MIB))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
