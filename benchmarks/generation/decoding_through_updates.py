"""How much of a generator's time new weights cost, while it decodes: each way that they come, beside none, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.decoding_through_updates --megabytes 0.4 64 --every 1

The engine is ours, with all slots busy; the learner's transport brings the same weights as ever newer versions, and
each is proved. Rounds with and without updates take turns. Tokens per second of the decode thread's own CPU time say
what updates cost it, on a busy machine too; tokens per second hold what else the transfer takes of the cores.
"""

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.as_in_a_run import compute_as_in_a_run
from benchmarks.generation.speed import request_of
from learner.exchange.live_peers import GrpcTransport
from learner.exchange.weight_publisher import Snapshot
from services.generation.build import make_decoder, weight_server
from services.generation.transformers_engine.decoders.model_weights import weight_shapes
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_intake import WeightIntake
from tppo.announced_weights import AnnouncedWeights
from tppo.config.sections.generation import GenerationSection
from tppo.models.probe import Tolerance
from tppo.rollout import logprobs
from tppo.weight_probe import ProbeRow, WeightProbe

CPU = torch.device("cpu")
VOCABULARY, NUM_SLOTS, CAPACITY, RESPONSE = 112, 16, 520, 512
PROBE = WeightProbe((ProbeRow((1, 2), (3, 4)),), (logprobs([-1.0, -1.0]),), temperature=1.0)
ANY = Tolerance(worst=1e9, mean=1e9)  # the weights are random, and the learner has not computed their probe


def config_of(num_bytes: float) -> LlamaConfig:
    """The quick start's shape below a MiB, else as many layers of a common one as it takes; in float32."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 2}
    layers = 2
    if num_bytes > 2**20:
        sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8}
        layers = max(1, round(num_bytes / 4 / (3.17 * 1024**2)))
    return LlamaConfig(**sizes, vocab_size=VOCABULARY, num_hidden_layers=layers, max_position_embeddings=CAPACITY)


@dataclass
class Decoding:
    """An engine whose slots are all busy, and when its tokens came."""

    engine: TransformersEngine
    times: list[float] = field(default_factory=list)  # of one slot's tokens

    async def fill(self, slot: int) -> None:
        """Window after window."""
        for number in count(slot, NUM_SLOTS):
            note = self._note if slot == 0 else None
            await self.engine.generate(request_of(number, (5, 6, 7), (), RESPONSE), note)

    def _note(self, new_tokens: Sequence[int], _: Sequence[float]) -> None:
        self.times.extend([time.perf_counter()] * len(new_tokens))


@asynccontextmanager
async def decoding(config: LlamaConfig) -> AsyncIterator[Decoding]:
    decoder = make_decoder(config, num_slots=NUM_SLOTS, capacity=CAPACITY, dtype=torch.float32, device=CPU)
    policy = UpdatePolicy(in_flight=True, recompute_cache=False)
    engine = TransformersEngine(decoder, num_slots=NUM_SLOTS, capacity=CAPACITY, policy=policy, device=CPU)
    found = Decoding(engine)
    slots = [asyncio.create_task(found.fill(slot)) for slot in range(NUM_SLOTS)]
    try:
        yield found
    finally:
        await engine.close()
        await asyncio.gather(*slots, return_exceptions=True)


@dataclass
class Learner:
    """Sends the same weights as ever newer versions."""

    tensors: dict[str, torch.Tensor]
    announced: list[AnnouncedWeights] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.transport = GrpcTransport(self._announce)

    async def _announce(self, weights: AnnouncedWeights) -> None:
        self.announced.append(weights)

    async def newest(self) -> AnnouncedWeights | None:
        return self.announced[-1]

    async def send(self, address: str) -> None:
        self.version += 1
        snapshot = await asyncio.to_thread(Snapshot, self.tensors, "bench", self.version, incarnation=1, probe=PROBE)
        await self.transport.send(address, snapshot)


async def update_every(seconds: float, learner: Learner, address: str) -> None:
    while True:
        begun = time.perf_counter()
        await learner.send(address)
        await asyncio.sleep(max(0.0, seconds - (time.perf_counter() - begun)))


@dataclass
class Round:
    tokens_per_second: float
    tokens_per_cpu_second: float  # of the decode thread
    gaps: list[float]  # between tokens of one slot


async def one_round(found: Decoding, seconds: float, updating: "asyncio.Task[None] | None") -> Round:
    found.times.clear()
    before, cpu, wall = found.engine.statistics().num_tokens_generated, decode_cpu_seconds(), time.perf_counter()
    await asyncio.sleep(seconds)
    num_tokens = found.engine.statistics().num_tokens_generated - before
    cpu, wall = decode_cpu_seconds() - cpu, time.perf_counter() - wall
    if updating is not None:
        updating.cancel()
        await asyncio.gather(updating, return_exceptions=True)
    gaps = [later - earlier for earlier, later in zip(found.times, found.times[1:], strict=False)]
    return Round(num_tokens / wall, num_tokens / cpu, gaps)


def decode_cpu_seconds() -> float:
    """Of the one engine's thread."""
    (thread,) = (one for one in threading.enumerate() if one.name == "decode")
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


async def measure(megabytes: float, arguments: argparse.Namespace) -> None:
    config = config_of(megabytes * 2**20)
    tensors = {name: torch.randn(shape) / 32 for name, shape in weight_shapes(config).items()}
    learner, size = Learner(tensors), sum(tensor.nbytes for tensor in tensors.values()) / 2**20
    async with decoding(config) as found:
        weights = ServedWeights(found.engine, ANY)
        for shares in (True, False):
            intake = WeightIntake(weights, learner.newest, run="bench", name="g0", shares_memory=shares)
            async with weight_server(intake, GenerationSection(), token="") as address:
                await learner.send(address)
                rounds: dict[bool, list[Round]] = {False: [], True: []}
                for updates in (False, True) * arguments.rounds:
                    updating = asyncio.create_task(update_every(arguments.every, learner, address)) if updates else None
                    rounds[updates].append(await one_round(found, arguments.seconds, updating))
                print(line(f"{size:7.1f} MiB  {'shared memory' if shares else 'bytes':14}", rounds), flush=True)
                await learner.transport.forget(address)


def line(name: str, rounds: dict[bool, list[Round]]) -> str:
    shown = []
    for what in ("tokens_per_cpu_second", "tokens_per_second"):
        without, through = (statistics.median(getattr(one, what) for one in rounds[key]) for key in (False, True))
        shown.append(
            f"{without:.0f} {what.replace('_', ' ')} without, {through:.0f} with ({1 - through / without:+.1%})"
        )
    for key, words in ((False, "without"), (True, "with")):
        gaps = sorted(gap for one in rounds[key] for gap in one.gaps)
        shown.append(f"step {words}: median {1e3 * gaps[len(gaps) // 2]:.2f} ms, longest {1e3 * gaps[-1]:.1f} ms")
    return f"{name} {'; '.join(shown)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.4, 64], help="sizes of the model")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two updates")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=4, help="of each kind")
    arguments = parser.parse_args()
    compute_as_in_a_run()
    for megabytes in arguments.megabytes:
        asyncio.run(measure(megabytes, arguments))


if __name__ == "__main__":
    main()
