"""Trainings of the quick start, timed: one `tppo run` for each variant and seed, and what it took, in `runs.jsonl`.

Evaluations are deferred until training is over, so that the clock has nothing else in it; it runs from the first window
to the last step. A run that has its line is not repeated, so an interrupted study goes on by the same command.
"""

import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.parquet as pq

from benchmarks.process_watch import ProcessWatch
from services.local.compare.measures import measured
from services.local.metrics import RunMetrics
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.metric_lines import read_metric_lines
from tppo.run_folder.paths import RunPaths, trace_files

QUICKSTART = Path(__file__).parents[2] / "examples" / "iterated_map" / "quickstart.toml"
COMMON = (
    "evaluation.after_training=true",
    "evaluation.val_before_train=true",
    "checkpoint.save_freq=0",
    "dashboard.port=0",
    "trace.enabled=true",
)
ROWS = 32  # windows of a step
STEP_SECONDS, START_SECONDS = 1.0, 20.0  # of a run, before any was measured
FIRST_SEED = 101  # none that a setting was chosen with


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A system in one setting."""

    name: str
    overrides: tuple[str, ...]
    step_share: float = 1.0
    """Steps of a run, in those of whole responses: with windows a step finishes fewer responses than it has rows."""
    num_threads: int = 1
    """Of each process."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run in numbers: a line of `runs.jsonl`."""

    variant: str
    seed: int
    steps: int
    overrides: tuple[str, ...]
    num_threads: int
    seconds_of_machine: float
    clock: tuple[float, ...]
    """Seconds of training at each step's end."""
    responses: tuple[int, ...]
    """Trained with their score, up to each step's end."""
    exact: tuple[tuple[int, float], ...]
    """Exact accuracy after some of the steps."""
    cpu_seconds: Mapping[str, float]
    """In training, by kind of process."""
    memory_mb: Mapping[str, float]
    tokens: int
    """Generated."""
    decode_steps: int
    slot_occupancy: float
    window_tokens: int
    """In the steps' windows."""
    read_tokens: int
    """Of the rows that the policy's pass reads for them, from the response's beginning."""
    token_lag: float
    largest_token_lag: int
    first_trained_seconds: float | None
    """From the weights that sampled a long response's first token to the step that first trained some of it; median."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What another call must not repeat."""
        return self.variant, self.seed, self.steps, self.overrides, self.num_threads

    @property
    def seconds(self) -> float:
        """Of training."""
        return self.clock[-1]

    def seconds_at(self, step: float) -> float:
        """The clock when so many steps were done."""
        return between([(0.0, 0.0), *enumerate(self.clock, start=1)], step)

    def exact_at(self, step: float) -> float:
        """Between two evaluations on a straight line."""
        return between(self.exact, step)

    def step_of_responses(self, number: int) -> float:
        """When so many had been trained; the last step where that was never."""
        before = [0, *self.responses]
        after = bisect_left(before, number)
        if after >= len(before):
            return float(self.steps)
        if after == 0:
            return 0.0
        return after - 1 + (number - before[after - 1]) / (before[after] - before[after - 1])

    def step_at(self, seconds: float) -> float:
        """How many steps were done then."""
        return between([(0.0, 0.0), *((clock, step) for step, clock in enumerate(self.clock, start=1))], seconds)

    def seconds_to(self, accuracy: float) -> float | None:
        """Until the exact accuracy was first there; None where it never was."""
        points = [(self.seconds_at(step), exact) for step, exact in self.exact]
        if points[0][1] >= accuracy:
            return points[0][0]
        for (start, low), (end, high) in pairwise(points):
            if low < accuracy <= high:
                return start + (accuracy - low) / (high - low) * (end - start)
        return None


def between(points: Sequence[tuple[float, float]], place: float) -> float:
    """On straight lines; the ends go on as they are."""
    after = bisect_left(points, place, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (start, low), (end, high) = points[after - 1], points[after]
    return low + (high - low) * (place - start) / (end - start)


def steps_of(variant: Variant, num_steps: int) -> int:
    return math.ceil(num_steps * variant.step_share)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which runs there are to be."""

    folder: Path
    variants: Sequence[Variant]
    seeds: Sequence[int]
    num_steps: int
    settings: tuple[str, ...] = ()
    """For all of them, beside `COMMON`; how often to evaluate is decided here."""

    def outcomes(self) -> list[Outcome]:
        """Those that are done, of the variants and seeds as they are now."""
        wanted = {self._key(variant, seed) for variant in self.variants for seed in self.seeds}
        return [outcome for outcome in self._lines() if outcome.key in wanted]

    def missing(self) -> list[tuple[Variant, int]]:
        """Seed after seed, so that a study that is interrupted has pairs, and a machine that slows down slows all."""
        done = {outcome.key for outcome in self._lines()}
        pairs = ((variant, seed) for seed in self.seeds for variant in self.variants)
        return [(variant, seed) for variant, seed in pairs if self._key(variant, seed) not in done]

    def announcement(self) -> str:
        """What is missing, and how long it takes by what is done."""
        missing = self.missing()
        if not missing:
            return "Every run has its line."
        num_steps = sum(steps_of(variant, self.num_steps) for variant, _ in missing)
        rates = [outcome.seconds_of_machine / outcome.steps for outcome in self._lines()]
        if rates:
            seconds, source = num_steps * statistics.fmean(rates), f"by the {len(rates)} that are done"
        else:
            seconds, source = num_steps * STEP_SECONDS + len(missing) * START_SECONDS, "at a guess"
        return f"{len(missing)} runs, {num_steps} steps together: about {seconds / 60:.0f} minutes {source}."

    def run(self) -> list[Outcome]:
        """Run what is missing; all outcomes. Raises CalledProcessError when one does not come to its end."""
        print(self.announcement(), flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = self.missing()
        for number, (variant, seed) in enumerate(missing, start=1):
            print(f"[{number}/{len(missing)}] seed {seed}: {variant.name}", flush=True)
            outcome = self._measured(variant, seed)
            with (self.folder / "runs.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            print(f"    {outcome.seconds:.1f} s of training, exact {outcome.exact[-1][1]:.4f}", flush=True)
        return self.outcomes()

    def _lines(self) -> list[Outcome]:
        path = self.folder / "runs.jsonl"
        return [outcome_of(line) for line in read_objects(path)] if path.exists() else []

    def _key(self, variant: Variant, seed: int) -> tuple[Any, ...]:
        steps = steps_of(variant, self.num_steps)
        return variant.name, seed, steps, self._overrides(variant, steps), variant.num_threads

    def _overrides(self, variant: Variant, steps: int) -> tuple[str, ...]:
        length = (f"evaluation.test_freq={max(1, self.num_steps // 6)}", f"run.total_training_steps={steps}")
        return (*COMMON, *self.settings, *length, *variant.overrides)

    def _measured(self, variant: Variant, seed: int) -> Outcome:
        steps = steps_of(variant, self.num_steps)
        name = f"{''.join(letter if letter.isalnum() else '-' for letter in variant.name)}-seed{seed}-steps{steps}"
        overrides = self._overrides(variant, steps)
        own = (f"run.name={name}", f'run.directory="{self.folder}"', f"run.seed={seed}")
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of a run that was interrupted
        began = time.monotonic()
        watch = watched_run((*overrides, *own), num_threads=variant.num_threads)
        seconds = time.monotonic() - began
        outcome = read_outcome(self.folder / name, watch, variant=variant, seed=seed, overrides=overrides, took=seconds)
        shutil.rmtree(self.folder / name / "checkpoints", ignore_errors=True)
        return outcome


def watched_run(overrides: Sequence[str], *, num_threads: int = 1, config: Path = QUICKSTART) -> ProcessWatch:
    """`tppo run` to its end, and what its processes took meanwhile."""
    options = [f"--set={override}" for override in overrides]
    command = [sys.executable, "-m", "tppo", "run", str(config), "--exit-at-end", *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
    with ends_by_exception(), subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            with ProcessWatch(process.pid) as watch:
                code = process.wait()
        except BaseException:
            process.terminate()  # it ends what it has started
            raise
    if code:
        raise subprocess.CalledProcessError(code, command)
    return watch


@contextmanager
def ends_by_exception() -> Iterator[None]:
    """At SIGTERM and SIGHUP, so that nothing that was started goes on."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_outcome(
    folder: Path, watch: ProcessWatch, *, variant: Variant, seed: int, overrides: tuple[str, ...], took: float
) -> Outcome:
    lines = read_metric_lines(RunPaths(folder).metrics)
    metrics = RunMetrics(lines)
    measures = measured(folder, system=variant.name, seed=seed, rollouts_per_step=ROWS)
    finished = [round(line["response/finished_fraction"] * ROWS) for line in metrics.steps]
    clock = tuple(line["seconds_since_first_window"] for line in metrics.steps)
    end = metrics.steps[-1]["time"]
    began = end - clock[-1]
    traced = read_traces(RunPaths(folder).traces, clock)
    return Outcome(
        variant=variant.name,
        seed=seed,
        steps=len(metrics.steps),
        overrides=overrides,
        num_threads=variant.num_threads,
        seconds_of_machine=round(took, 1),
        clock=tuple(round(seconds, 3) for seconds in clock),
        responses=tuple(accumulate(finished)),
        exact=tuple((line["step"], line["eval/accuracy_exact"]) for line in metrics.evaluations),
        cpu_seconds=rounded(watch.cpu_seconds(began, end)),
        memory_mb=rounded(watch.memory_mb(began, end)),
        tokens=measures.tokens,
        decode_steps=measures.decode_steps,
        slot_occupancy=measures.slot_occupancy,
        window_tokens=sum(int(line["tokens/window"]) for line in metrics.steps),
        read_tokens=traced.read_tokens,
        token_lag=metrics.mean("policy_lag/mean") or 0.0,
        largest_token_lag=max(int(line["policy_lag/max"] or 0) for line in metrics.steps),
        first_trained_seconds=traced.first_trained_seconds,
    )


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(number, 2) for name, number in numbers.items()}


def outcome_of(line: Mapping[str, Any]) -> Outcome:
    """As it was written."""
    lists = {name: tuple(line[name]) for name in ("overrides", "clock", "responses")}
    exact = tuple((int(step), float(accuracy)) for step, accuracy in line["exact"])
    return Outcome(**{**line, **lists, "exact": exact})


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What only the traces know."""

    read_tokens: int
    first_trained_seconds: float | None


LONG = 512
"""Tokens of a long response: two windows of the quick start."""
COLUMNS = ["rollout_id", "position", "policy_version", "in_window", "value_mask"]


def read_traces(folder: Path, clock: Sequence[float]) -> Traced:
    """`clock`: seconds at each step's end."""
    num_read = 0
    first_trained: dict[str, tuple[int, int]] = {}  # the version of its first token, and the step
    waits = []
    for step, path in trace_files(folder).items():
        lengths: dict[str, int] = {}
        finished = set()
        for rollout, position, version, in_window, value_mask in rows_of(path):
            if in_window:
                first_trained.setdefault(rollout, (version, step))
                lengths[rollout] = max(lengths.get(rollout, 0), position + 1)
            if value_mask:
                finished.add(rollout)
        num_read += sum(lengths.values())
        for rollout in finished & lengths.keys():
            version, trained = first_trained.pop(rollout)
            if lengths[rollout] > LONG:
                waits.append(clock[trained - 1] - (clock[version - 1] if version > 0 else 0.0))
    return Traced(read_tokens=num_read, first_trained_seconds=statistics.median(waits) if waits else None)


def rows_of(path: Path) -> Iterator[tuple[Any, ...]]:
    columns = pq.read_table(path, columns=COLUMNS).to_pydict()
    yield from zip(*(columns[name] for name in COLUMNS), strict=True)
