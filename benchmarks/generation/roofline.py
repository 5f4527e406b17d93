"""The roofline of generation: operations for a byte and their rate, with whole responses and with windows.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.roofline

The lengths of responses are those of the recorded steps of the quick start (benchmarks/recordings/). For each way to
fill slots (decode_batches.py) the engine generates responses of just these lengths with the quick start's model; beside
it, in the same run, stand the machine's limits as measured: products of large matrices, and matrix-vector products
that read their matrix from the memory, or from the caches. All of it is measured in turns, since a machine's speed may
change within seconds: a ratio is that within a turn, and the rest is of each way's median turn. The same batches, with
lengths times twelve, are then modelled for 32 billion parameters on eight cards of the H800's kind by their data sheet,
and labelled as modelled.
"""

import asyncio
import lzma
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import results
from benchmarks.as_in_a_run import compute_as_in_a_run
from benchmarks.generation.decode_batches import (
    H800,
    PROMPT_LENGTH,
    QWEN_32B,
    Batch,
    Decoding,
    Limits,
    Network,
    cohorts,
    recorded_lengths,
    refilled,
    together,
    without_refill,
)
from benchmarks.generation.roofline_picture import draw
from benchmarks.generation.speed import CPU, request_of
from benchmarks.results import Chapter, Lines, Section, chapter_folder, chapter_parser, table
from services.generation.build import make_decoder
from services.generation.engine import EngineStatistics
from services.generation.transformers_engine.decoders.model_weights import named_weights
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tppo.rollout import tokens
from tppo.weights import WeightUpdate

RECORDING = results.ROOT / "benchmarks" / "recordings" / "quickstart_60_steps.log.xz"
MODEL = results.ROOT / "examples" / "iterated_map" / "base" / "actor"
PICTURE = results.ROOT / "docs" / "images" / "roofline.svg"
LIMIT, WINDOW, SLOTS = 2048, 256, 32
MODELLED_SLOTS, MODELLED_RESPONSES, SCALE = 256, 8192, 12
CARDS = Limits(8 * H800.operations_per_second, 8 * H800.bytes_per_second)
SECONDS_EACH = 10.0
NUM_TURNS = 5
WAYS: Mapping[str, tuple[bool, int | None]] = {  # refilled at once, window
    "PPO, synchronous": (False, None),
    "T-PPO, windows refilled at the step's border": (False, WINDOW),
    "PPO, slots refilled at once": (True, None),
    "T-PPO, slots refilled at once": (True, WINDOW),
}
BASE = next(iter(WAYS))
LIMITS = ("operations", "memory", "cache", "working_set")


def batches(lengths: Sequence[int], way: str, *, num_slots: int, scale: int = 1) -> Iterator[Batch]:
    """The decode steps of a way to fill slots."""
    is_refilled, window = WAYS[way]
    window = window and window * scale
    scaled = [length * scale for length in lengths]
    if is_refilled:
        yield from refilled(scaled, num_slots=num_slots, window=window)
    else:
        for pieces in cohorts(scaled, num_rows=num_slots, window=window):
            yield from without_refill(pieces)


async def replayed(engine: TransformersEngine, lengths: Sequence[int], way: str) -> EngineStatistics:
    """What the engine has done when it has generated these lengths, and its slots begin to stay empty."""
    is_refilled, window = WAYS[way]
    if is_refilled:
        await _run_streams(engine, lengths, window)
    else:
        rng = random.Random(0)
        for pieces in cohorts(lengths, num_rows=SLOTS, window=window):
            prefixes = ([rng.randrange(3, 100) for _ in range(cached)] for cached, _ in pieces)
            requests = [
                request_of(number, prefix, (), num)
                for number, (prefix, (_, num)) in enumerate(zip(prefixes, pieces, strict=True))
            ]
            await asyncio.gather(*(engine.generate(request) for request in requests))
    return engine.statistics()


async def _run_streams(engine: TransformersEngine, lengths: Sequence[int], window: int | None) -> None:
    """As many windows wait as run; all end when the first finds no further response."""
    left = iter(enumerate(lengths))

    async def stream() -> None:
        for number, length in left:
            prompt, response = tokens(random.Random(number).choices(range(3, 100), k=PROMPT_LENGTH)), tokens()
            while len(response) < length:
                num = min(window or length, length - len(response))
                response = response + (await engine.generate(request_of(number, prompt, response, num))).tokens

    tasks = [asyncio.create_task(stream()) for _ in range(2 * SLOTS)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def measured(lengths: Sequence[int], way: str) -> Section:
    """Tokens, decode steps and busy seconds of the engine."""
    capacity = PROMPT_LENGTH + LIMIT
    config = AutoConfig.from_pretrained(MODEL, local_files_only=True)
    decoder = make_decoder(config, num_slots=SLOTS, capacity=capacity, dtype=torch.float32, device=CPU)
    engine = TransformersEngine(decoder, num_slots=SLOTS, capacity=capacity, policy=UpdatePolicy(), device=CPU)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    tensors = {name: tensor.detach().clone() for name, tensor in named_weights(model).items()}
    await engine.update_weights(WeightUpdate(policy_version=0, incarnation=0, digest="", tensors=tensors))
    began = time.process_time()
    done = await replayed(engine, lengths, way)
    cpu_seconds = time.process_time() - began
    await engine.close()
    return {
        "tokens": done.num_tokens_generated,
        "steps": done.num_decode_steps,
        "seconds": done.busy_seconds,
        "cpu_seconds": cpu_seconds,
        "prefilled": done.num_prefill_tokens,
    }


def rate_of(work: Callable[[], object], amount: float, *, seconds: float = 1.0) -> float:
    """The median of a second's repetitions, after one that does not count."""
    work()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        began = time.perf_counter()
        work()
        found.append(amount / (time.perf_counter() - began))
    return statistics.median(found)


def machine_limits(working_set: float) -> Section:
    """A large product's operations a second; bytes a second of a matrix times a vector, large or of this many bytes."""
    size = 1024
    square = torch.randn(size, size)
    large, small = torch.randn(8192, 8192), torch.randn(max(64, round(working_set / 4 / 256)), 256)
    return {
        "operations": rate_of(lambda: square @ square, 2.0 * size**3),
        "memory": rate_of(lambda: large @ large[0], 4.0 * large.numel()),
        "cache": rate_of(lambda: small @ small[0], 4.0 * small.numel()),
        "working_set": working_set,
    }


def network() -> Network:
    return Network.of(AutoConfig.from_pretrained(MODEL, local_files_only=True), bytes_each=4)


def measure(lengths: Sequence[int], folder: Path) -> Section:
    """All ways and the limits, in turns, of which every other one runs backwards."""
    working_set = together(batches(lengths, BASE, num_slots=SLOTS), network(), Limits(1, 1))
    per_step = working_set.bytes_read / working_set.num_steps
    works: dict[str, Callable[[], Section]] = {"limits": lambda: machine_limits(per_step)}
    for way in WAYS:
        works[way] = lambda way=way: asyncio.run(measured(lengths, way))  # type: ignore[misc]
    parts = {  # there and back, since a machine that works for long may slow down
        _key(lengths, turn, name): works[name]
        for turn in range(NUM_TURNS)
        for name in (reversed(works) if turn % 2 else works)
    }
    found = Lines(folder / "roofline.jsonl").measure(parts, seconds_each=SECONDS_EACH * len(lengths) / 1700)
    turns = {name: [found[_key(lengths, turn, name)] for turn in range(NUM_TURNS)] for name in works}
    limits = {name: statistics.median(turn[name] for turn in turns["limits"]) for name in LIMITS}
    here = Limits(limits["operations"], limits["cache"])
    ways = {
        way: median_turn(turns[way])
        | {"ratios": [rate(own) / rate(base) for own, base in zip(turns[way], turns[BASE], strict=True)]}
        | {"computed": _plain(together(batches(lengths, way, num_slots=SLOTS), network(), here))}
        for way in WAYS
    }
    return {
        "num_responses": len(lengths),
        "limits": limits,
        "ways": ways,
        "modelled": modelled(lengths),
        "seconds_of_machine": sum(numbers["seconds_of_machine"] for numbers in found.values()),
    }


def _key(lengths: Sequence[int], turn: int, name: str) -> str:
    return f"{len(lengths)} responses, turn {turn}: {name}"


def rate(numbers: Section) -> float:
    """Tokens of a busy second."""
    found: float = numbers["tokens"] / numbers["seconds"]
    return found


def median_turn(turns: Sequence[Section]) -> Section:
    """The one in the middle, by its rate."""
    return sorted(turns, key=rate)[len(turns) // 2]


def modelled(lengths: Sequence[int]) -> Section:
    """The least seconds on eight cards, whose limits add up."""
    drawn = random.Random(0).choices(lengths, k=MODELLED_RESPONSES)
    return {
        way: _plain(together(batches(drawn, way, num_slots=MODELLED_SLOTS, scale=SCALE), QWEN_32B, CARDS))
        for way in WAYS
    }


def _plain(decoding: Decoding) -> Section:
    return asdict(decoding) | {"intensity": decoding.intensity}


def tables(section: Section) -> dict[str, str]:
    measured = "\n\n".join((limits_text(section), measured_table(section), f"![Both roofs](images/{PICTURE.name})"))
    return {"roofline": measured, "roofline-32b": modelled_table(section)}


def limits_text(section: Section) -> str:
    found, num_turns = section["limits"], len(section["ways"][BASE]["ratios"])
    return (
        f"Limits of one core, measured in the same run: {found['operations'] / 1e9:.0f} GFLOP/s; "
        f"{found['memory'] / 1e9:.1f} GB/s from the memory, {found['cache'] / 1e9:.1f} GB/s from the caches, in which "
        f"the {found['working_set'] / 1e6:.1f} MB of a decode step lie. {section['num_responses']} recorded responses "
        f"of at most {LIMIT} tokens, {SLOTS} slots, windows of {WINDOW}. Medians of {num_turns} turns, "
        "with the least and the largest ratio within a turn."
    )


def measured_table(section: Section) -> str:
    limits = Limits(section["limits"]["operations"], section["limits"]["cache"])
    rows = []
    for way, numbers in section["ways"].items():
        computed, ratios = numbers["computed"], numbers["ratios"]
        operations = computed["operations"] / computed["num_tokens"] * rate(numbers)
        rows.append(
            [
                way,
                f"{numbers['tokens'] / numbers['steps']:.1f}",
                f"{computed['num_cached'] / computed['num_tokens']:.0f}",
                f"{computed['intensity']:.1f}",
                f"{rate(numbers):,.0f}",
                f"{numbers['tokens'] / numbers['cpu_seconds']:,.0f}",
                f"{operations / 1e9:.2f}",
                f"{operations / limits.attainable(computed['intensity']):.0%}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    head = [
        "measured here",
        "rows of a decode step",
        "cached tokens of a row",
        "operations for a byte",
        "tokens per busy second",
        "per CPU second",
        "GFLOP/s",
        "of the roof",
        f"tokens, to {BASE}",
    ]
    return table(head, rows)


def modelled_table(section: Section) -> str:
    base = section["modelled"][BASE]
    rows = [
        [
            way,
            f"{numbers['num_tokens'] / numbers['num_steps']:.1f}",
            f"{numbers['num_cached'] / numbers['num_tokens']:,.0f}",
            f"{numbers['intensity']:.1f}",
            f"{numbers['num_tokens'] / numbers['least_seconds']:,.0f}",
            f"{numbers['num_tokens'] / numbers['least_seconds'] / (base['num_tokens'] / base['least_seconds']):.2f}",
        ]
        for way, numbers in section["modelled"].items()
    ]
    head = [
        "**modelled**: 32B, eight H800",
        "rows of a decode step",
        "cached tokens of a row",
        "operations for a byte",
        "tokens per second at most",
        f"to {BASE}",
    ]
    return table(head, rows)


CHAPTER = Chapter(
    name="roofline",
    module="benchmarks.generation.roofline",
    minutes=5,
    places=("roofline", "roofline-32b"),
    tables=tables,
)


def main(argv: Sequence[str]) -> None:
    arguments = chapter_parser(__doc__, quick="few responses").parse_args(argv)
    compute_as_in_a_run()
    lengths = recorded_lengths(lzma.decompress(RECORDING.read_bytes()), limit=LIMIT)
    lengths, folder = lengths[:200] if arguments.quick else lengths, chapter_folder(arguments)
    section = measure(lengths, folder)
    print("\n\n".join(tables(section).values()))
    if arguments.quick:
        draw(section, CARDS, folder / "roofline.svg")
    else:
        results.keep(CHAPTER.name, section, seconds=section["seconds_of_machine"])
        draw(section, CARDS, PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
