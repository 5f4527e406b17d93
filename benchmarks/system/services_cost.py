"""What the services cost: the same training by a bare loop of two processes, and by `tppo run`.

    OMP_NUM_THREADS=1 python -m benchmarks.system.services_cost

The bare loop has the same engine in one process and the same ledger and trainer in the other, a pipe between them, and
nothing else: no Redis, no gRPC, no leases, no proofs of weights, no checkpoints, no traces, no evaluation. The
services run as in the quick start, and once more without what a run can do without. They take turns, one thread per
process; what counts is trained tokens per second of one turn, and CPU seconds per step by what a process is for. The
first four steps are left out. Then bare loop and services train larger models, of random weights, to part what goes by
the records of a step from what goes by the model.
"""

import argparse
import asyncio
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from safetensors.torch import load_file, save_file
from torch import manual_seed
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification
from transformers.utils.logging import disable_progress_bar

from benchmarks import results
from benchmarks.as_in_a_run import compute_as_in_a_run
from benchmarks.process_watch import tree
from benchmarks.results import Chapter, Lines, Section, chapter_folder, chapter_parser, table
from benchmarks.studies.timed_runs import QUICKSTART, rounded, watched_run
from learner.build import new_manager
from learner.models.loading.named_tensors import copied, named_tensors
from learner.networks import load_models
from learner.rollouts.manager import RolloutManager
from learner.rollouts.requests import UnscoredResponse
from learner.state import new_trainer
from learner.step.trainer import Trainer
from services.generation.build import build_engine
from services.generation.transformers_engine.engine import TransformersEngine
from services.reward.verifiers.answers import is_exact_match
from tppo.codec import decode_inbox_record, decode_window_request, encode_inbox_record, encode_window_request
from tppo.config import Config, load
from tppo.models.tokenizer import load_tokenizer
from tppo.rollout import RewardRequest, Score, ScoreStatus, Window, WindowRequest
from tppo.run_folder.metric_lines import STEP, read_metric_lines
from tppo.weights import WeightUpdate

HEAD = struct.Struct("<cI")  # of a message in the pipe: its kind, and the length of what follows
WINDOW, WEIGHTS = b"W", b"U"
NUM_WARM_UP = 4
"""Steps that do not count."""
LEAN = (
    "trace.enabled=false",
    "run.archive_inbox=false",
    "endpoint.enabled=false",
    "prometheus.enabled=false",
    "reward.kept_prompts=0",
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Models of one size, and how long they train."""

    parameters: str  # of the policy
    hidden_size: int | None = None  # None: the quick start's own models
    num_layers: int | None = None
    steps: int
    turns: int
    num_systems: int  # the first ones
    seconds_of_part: float  # about


SCALES = (
    Scale(parameters="106,000", steps=60, turns=5, num_systems=3, seconds_of_part=35),
    Scale(parameters="801,000", hidden_size=128, num_layers=4, steps=30, turns=5, num_systems=2, seconds_of_part=35),
    Scale(parameters="4,749,000", hidden_size=256, num_layers=6, steps=14, turns=2, num_systems=2, seconds_of_part=110),
)


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """Kind and payload of each, to the end of the stream."""
    while True:
        try:
            kind, length = HEAD.unpack(await reader.readexactly(HEAD.size))
            yield kind, await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return


class EngineProcess:
    """The engine in the process that this file is, called with `--serve`."""

    def __init__(self, engine: TransformersEngine, folder: Path, output: int) -> None:
        self._engine, self._folder, self._output = engine, folder, output
        self._generating: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the pipe is closed."""
        async for kind, payload in messages(reader):
            if kind == WEIGHTS:
                version = int(payload)
                tensors = load_file(self._folder / f"{version}.safetensors")
                await self._engine.update_weights(WeightUpdate(version, 1, "", tensors))
            else:
                task = asyncio.create_task(self._generate(decode_window_request(payload)))
                self._generating.add(task)
                task.add_done_callback(self._generating.discard)
        for task in self._generating:
            task.cancel()
        await self._engine.close()

    async def _generate(self, request: WindowRequest) -> None:
        payload = encode_inbox_record(await self._engine.generate(request))
        os.write(self._output, HEAD.pack(WINDOW, len(payload)) + payload)


async def serve(config: Config, folder: Path) -> None:
    output = os.dup(1)
    os.dup2(2, 1)  # what a library prints is none of our messages
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await EngineProcess(build_engine(config), folder, output).serve(reader)


@dataclass
class BareLoop:
    """The learner's part."""

    config: Config
    trainer: Trainer
    manager: RolloutManager
    engine: asyncio.subprocess.Process
    folder: Path
    num_records: int = 0
    num_tokens: int = 0
    seconds_waiting: float = 0.0
    seconds_training: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        assert self.engine.stdout is not None
        windows = messages(self.engine.stdout)
        await self._send_weights(0)
        self.manager.scheduler.open(0)
        self._settle()
        for step in range(self.config.run.total_training_steps):
            if step == NUM_WARM_UP:
                before = self._cpu()
                self.num_tokens, self.seconds_waiting, self.seconds_training = 0, 0.0, 0.0
            await self._step(step, windows)
        after = self._cpu()
        self.cpu_seconds = {kind: after[kind] - before[kind] for kind in after}

    async def _step(self, step: int, windows: AsyncIterator[tuple[bytes, bytes]]) -> None:
        began = time.perf_counter()
        while not (batch := self.manager.scheduler.next_batch(step)):
            _, payload = await anext(windows)
            self._enter(payload)
        arrived = time.perf_counter()
        self.num_tokens += sum(len(row.window_tokens) for row in batch)
        self.manager.ledger.take(batch)
        result = self.trainer.step(batch, policy_version=step)
        for row, values in zip(batch, result.values, strict=True):
            self.manager.ledger.mark_trained(row, values)
        await self._send_weights(step + 1)
        self.manager.scheduler.close_step(batch, step + 1)
        self._settle()
        self.seconds_waiting += arrived - began
        self.seconds_training += time.perf_counter() - arrived

    async def _send_weights(self, version: int) -> None:
        await asyncio.to_thread(self._save_weights, self.folder / f"{version}.safetensors")
        self._send(WEIGHTS, str(version).encode())

    def _save_weights(self, path: Path) -> None:
        save_file(dict(copied(named_tensors(self.trainer.policy.network))), path)

    def _send(self, kind: bytes, payload: bytes) -> None:
        assert self.engine.stdin is not None
        self.engine.stdin.write(HEAD.pack(kind, len(payload)) + payload)

    def _enter(self, payload: bytes) -> None:
        record = decode_inbox_record(payload)
        assert isinstance(record, Window)
        self._note(record)
        self._settle()

    def _settle(self) -> None:
        """Send what is to be sampled, and score what is to be scored."""
        while self.manager.ledger.outbox:
            requests, self.manager.ledger.outbox = self.manager.ledger.outbox, []
            for request in requests:
                if isinstance(request, UnscoredResponse):
                    self._note(scored(request.request(self.manager.ledger.decode)))
                else:
                    self._send(WINDOW, encode_window_request(request))
        self.manager.ledger.occurrences.clear()  # nobody keeps a journal

    def _note(self, record: Window | Score) -> None:
        self.num_records += 1
        self.manager.enter((self.num_records, 0), record)

    def _cpu(self) -> dict[str, float]:
        generation = sum(process.cpu_seconds for process in tree(self.engine.pid))
        return {"learner": time.process_time(), "generation": generation}


def scored(request: RewardRequest) -> Score:
    score = float(is_exact_match(request.response, request.ground_truth))
    return Score(request.rollout_id, request.attempt, ScoreStatus.SCORED, score)


async def bare(settings: Sequence[str]) -> Section:
    """Of the bare loop, in this process and another."""
    config = load(QUICKSTART, settings)
    trainer = new_trainer(config, *load_models(config, None))
    manager = new_manager(config, load_tokenizer(config.model.path))
    with tempfile.TemporaryDirectory() as folder:
        options = [part for setting in settings for part in ("--set", setting)]
        engine = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.system.services_cost", "--serve", folder, *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
            start_new_session=True,  # as the processes of `tppo run`: the scheduler of Linux divides cores by sessions
        )
        loop = BareLoop(config, trainer, manager, engine, Path(folder))
        try:
            await loop.run()
        finally:
            assert engine.stdin is not None
            engine.stdin.close()
            await engine.wait()
    seconds = loop.seconds_waiting + loop.seconds_training
    return {
        "seconds": seconds,
        "tokens": loop.num_tokens,
        "training": loop.seconds_training,
        "cpu": rounded(loop.cpu_seconds),
    }


def with_services(settings: Sequence[str]) -> Section:
    """Of `tppo run`."""
    with tempfile.TemporaryDirectory() as folder:
        watch = watched_run((*settings, f"run.directory={folder}", "dashboard.port=0"))
        steps = [
            line for line in read_metric_lines(Path(folder) / "quickstart" / "metrics.jsonl") if line["kind"] == STEP
        ]
    began, ended, counted = steps[NUM_WARM_UP - 1]["time"], steps[-1]["time"], steps[NUM_WARM_UP:]
    return {
        "seconds": ended - began,
        "tokens": sum(int(line["tokens/window"]) for line in counted),
        "training": sum(line["timing_s/train"] for line in counted),
        "cpu": rounded(watch.cpu_seconds(began, ended)),
    }


SYSTEMS = ("bare loop of two processes", "services", "services without what can be left out")


def tables(section: Section) -> dict[str, str]:
    """Medians over the turns of each scale; each rate against that of the bare loop of the same turn."""
    speed: list[list[str]] = []
    of_kinds: list[list[str]] = []
    scales = section["scales"]
    kinds = sorted(
        {kind for scale in scales for turn in scale["turns"] for one in turn.values() for kind in one["cpu"]}
    )
    for scale in scales:
        turns, num_steps = scale["turns"], scale["steps"] - NUM_WARM_UP
        rates = {name: [turn[name]["tokens"] / turn[name]["seconds"] for turn in turns] for name in turns[0]}
        for name in rates:
            of_bare = [rate / base for rate, base in zip(rates[name], rates[SYSTEMS[0]], strict=True)]
            cpu = {kind: median(turn[name]["cpu"].get(kind, 0.0) for turn in turns) for kind in kinds}
            of_kinds.append([scale["parameters"], name, *(f"{1000 * cpu[kind] / num_steps:.0f}" for kind in kinds)])
            speed.append(
                [
                    scale["parameters"],
                    name,
                    f"{median(rates[name]):.0f}",
                    f"{median(of_bare):.2f}",
                    f"{min(of_bare):.2f} to {max(of_bare):.2f}",
                    f"{median(turn[name]['training'] / turn[name]['seconds'] for turn in turns):.2f}",
                    f"{1000 * median(sum(turn[name]['cpu'].values()) for turn in turns) / num_steps:.0f}",
                ]
            )
    head = ["parameters", "", "trained tokens per second", "of the bare loop", "least to largest of the turns"]
    head += ["share of the time in training steps", "CPU ms a step"]
    return {
        "services-cost": "\n\n".join((table(head, speed), table(["parameters", "CPU ms a step", *kinds], of_kinds)))
    }


CHAPTER = Chapter(
    name="services-cost",
    module="benchmarks.system.services_cost",
    minutes=20,
    places=("services-cost",),
    tables=tables,
)


def random_models(hidden_size: int, num_layers: int, folder: Path) -> tuple[str, ...]:
    """Settings of a run whose models, written into the folder, have the quick start's form, and random weights."""
    manual_seed(1)
    base = QUICKSTART.parent / "base"
    for name, kind in (("actor", AutoModelForCausalLM), ("critic", AutoModelForTokenClassification)):
        model_config = AutoConfig.from_pretrained(base / name)
        num_heads = hidden_size // model_config.head_dim
        model_config.hidden_size, model_config.intermediate_size = hidden_size, 3 * hidden_size
        model_config.num_attention_heads, model_config.num_key_value_heads = num_heads, num_heads // 2
        model_config.num_hidden_layers = num_layers
        kind.from_config(model_config).save_pretrained(folder / name)  # type: ignore[no-untyped-call]
        for file in (base / name).glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return f"model.path={folder / 'actor'}", f"model.critic_path={folder / 'critic'}"


def measure(scale: Scale, folder: Path) -> Section:
    """Its systems in turn, as often as it says."""
    settings: tuple[str, ...] = (f"run.total_training_steps={scale.steps}", "evaluation.test_freq=0")
    if scale.hidden_size and scale.num_layers:
        models = folder.resolve() / scale.parameters.replace(",", "_")
        settings += random_models(scale.hidden_size, scale.num_layers, models)
    ways: tuple[Callable[[], Section], ...] = (
        lambda: asyncio.run(bare(settings)),
        partial(with_services, settings),
        partial(with_services, (*settings, *LEAN)),
    )
    names = SYSTEMS[: scale.num_systems]

    def key(turn: int, name: str) -> str:
        return f"{scale.parameters} parameters, {scale.steps} steps, turn {turn}: {name}"

    turns = range(1, scale.turns + 1)
    parts = {key(turn, name): way for turn in turns for name, way in zip(names, ways, strict=False)}
    found = Lines(folder / "services_cost.jsonl").measure(parts, seconds_each=scale.seconds_of_part)
    return {
        "parameters": scale.parameters,
        "steps": scale.steps,
        "turns": [{name: found[key(turn, name)] for name in names} for turn in turns],
    }


def main(argv: Sequence[str]) -> None:
    parser = chapter_parser(__doc__, quick="one turn of a few steps")
    parser.add_argument("--serve", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", dest="settings", action="append", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    compute_as_in_a_run()
    if arguments.serve:
        asyncio.run(serve(load(QUICKSTART, arguments.settings), arguments.serve))
        return
    scales = [replace(SCALES[0], steps=12, turns=1)] if arguments.quick else SCALES
    folder = chapter_folder(arguments)
    section: Section = {"scales": [measure(scale, folder) for scale in scales]}
    print(tables(section)["services-cost"])
    if not arguments.quick:
        turns = [turn for scale in section["scales"] for turn in scale["turns"]]
        seconds = sum(one["seconds_of_machine"] for turn in turns for one in turn.values())
        results.keep(CHAPTER.name, section, seconds=seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
