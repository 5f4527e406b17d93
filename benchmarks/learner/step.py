"""What a training step of the quick start takes: recorded steps, replayed here and in other checkouts beside.

    python -m benchmarks.learner.step
    git worktree add /tmp/before COMMIT && python -m benchmarks.learner.step --beside /tmp/before
    python -m benchmarks.learner.step --profile

The recording is the inbox of 60 steps of 32 windows (benchmarks/recordings/), as the learner of 2b5aa37 had them; every
checkout since can replay it, so what is trained is the same to the token. One mini-batch a step, as then; one thread,
with this interpreter's packages. The first four steps are left out.

Checkouts take turns step by step, since a machine's speed may change within seconds: two that were the same differed by
5 % when whole replays followed one another, and by 1 % step by step. Of each step counts the median of its replays;
compare figures of one run. `--profile` says what the parts of a step take in each checkout, and what kinds of
operations a long step is made of.
"""

import argparse
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "benchmarks" / "recordings" / "quickstart_60_steps.log.xz"
NUM_WARM_UP = 4
NUM_STEPS = 50
PROFILED_STEP = 30
NUM_PROFILED = NUM_STEPS - NUM_WARM_UP - 1  # whose parts are timed: all but that one
READY = "ready"
TRAINERS = ("learner.step.trainer", "learner.trainer")  # the newest first
REPLAYS = ("learner.commands.replay.__main__", "learner.replaying.__main__")
CONFIG = """
[run]
name = "quickstart"
mode = "streaming"
seed = 1
total_training_steps = 60
rollouts_per_step = 32
window_length = 256
max_prompt_length = 16
max_response_length = 2048
max_token_lag = 32

[model]
path = "{task}/base/actor"
critic_path = "{task}/base/critic"

[data]
train_files = ["{task}/data/train.jsonl"]
val_files = ["{task}/data/validation.jsonl"]

[algorithm]
lam = 0.98
num_ignored_tail_tokens = 8

[actor]
lr = 3e-4
lr_warmup_steps = 12
betas = [0.9, 0.98]
max_tokens_per_microbatch = 2048

[critic]
lr = 1e-3
lr_warmup_steps = 4
warmup_steps = 2
max_tokens_per_microbatch = 2048

[generation]
num_slots = 32
num_prefetched = 32
recompute_cache_on_update = false

[reward.functions]
iterated_map = "exact"

[evaluation]
test_freq = 40

[trace]
enabled = true
"""


class Cost(NamedTuple):
    """Of a step, in seconds."""

    cpu: float
    wall: float


def recorded_run(folder: Path) -> Path:
    """A run's folder with the recording as its archived inbox."""
    (folder / "inbox").mkdir(parents=True)
    (folder / "inbox" / "1-0.log").write_bytes(lzma.decompress(RECORDING.read_bytes()))
    (folder / "config.toml").write_text(CONFIG.format(task=ROOT / "examples" / "iterated_map"))
    return folder


class Seen(NamedTuple):
    """What a checkout's process reports when it is profiled."""

    parts: dict[str, float]  # seconds of all steps behind the first few
    operations: dict[str, float]  # microseconds of a long step


def in_turn(run: str, num_steps: int) -> None:
    """In the checkout's process: replay, each step when its turn has come, and print what it took."""
    trainer = import_module(_first_of(TRAINERS)).Trainer
    step = trainer.step

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        print(READY, flush=True)
        sys.stdin.readline()
        began = time.thread_time(), time.perf_counter()
        result = step(self, *arguments, **options)
        print(json.dumps([time.thread_time() - began[0], time.perf_counter() - began[1]]), flush=True)
        return result

    trainer.step = timed
    _replay(run, num_steps)


def profiled(run: str, num_steps: int) -> None:
    """In the checkout's process: replay, and print what the parts of the steps took."""
    step_parts = import_module("step_parts")
    trainer, parts = import_module(_first_of(TRAINERS)).Trainer, step_parts.Parts()
    step, numbers, operations = trainer.step, count(1), {}
    parts.watch()

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        number = next(numbers)
        if number == NUM_WARM_UP + 1:
            parts.seconds.clear()
        if number != PROFILED_STEP:
            with parts.timed(step_parts.REST):
                return step(self, *arguments, **options)
        before = dict(parts.seconds)
        result, found = step_parts.operations(lambda: step(self, *arguments, **options))
        operations.update(found)
        parts.seconds.clear()  # the profiler's own time is in those of this step
        parts.seconds.update(before)
        return result

    trainer.step = timed
    _replay(run, num_steps)
    print(json.dumps([parts.seconds, operations]))


def _replay(run: str, num_steps: int) -> None:
    import_module(_first_of(REPLAYS)).main([run, "--until", str(num_steps)])


def _first_of(modules: Sequence[str]) -> str:
    for module in modules:
        try:
            if find_spec(module) is not None:
                return module
        except ModuleNotFoundError:  # its package
            continue
    raise SystemExit(f"none of {', '.join(modules)}; expected a checkout since 2b5aa37")


@contextmanager
def process(checkout: Path, function: str, num_steps: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that imports the checkout and runs a function of this file on a recorded run.

    Ends the benchmark with what the process wrote to standard error, where that failed.
    """
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as errors:
        run = recorded_run(Path(name) / "quickstart")
        path = os.pathsep.join([str(checkout), str(Path(__file__).parent)])
        begun = subprocess.Popen(
            [sys.executable, "-c", f"import step; step.{function}({str(run)!r}, {num_steps})"],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with begun:
            try:
                yield begun
            finally:
                begun.communicate()
                if begun.returncode:
                    errors.seek(0)
                    raise SystemExit(f"{checkout}: {errors.read()[-2000:]}")


def measured_in_turn(checkouts: Sequence[Path], num_steps: int = NUM_STEPS) -> list[list[Cost]]:
    """Of each checkout, what the steps behind the first few took, one replay in each; a step has its turn in all."""
    costs: list[list[Cost]] = [[] for _ in checkouts]
    with ExitStack() as stack:
        replays = [stack.enter_context(process(checkout, in_turn.__name__, num_steps)) for checkout in checkouts]
        for number in range(num_steps):
            for replay in replays:
                _read_until_ready(replay)
            places = range(len(replays))
            for place in places if number % 2 else reversed(places):
                costs[place].append(_one_step(replays[place]))
    return [of_checkout[NUM_WARM_UP:] for of_checkout in costs]


def _read_until_ready(replay: "subprocess.Popen[str]") -> None:
    assert replay.stdout is not None
    while (line := replay.stdout.readline()) != f"{READY}\n":
        if not line:
            raise EOFError("a replay ended before its last step")


def _one_step(replay: "subprocess.Popen[str]") -> Cost:
    assert replay.stdin is not None
    assert replay.stdout is not None
    print(file=replay.stdin, flush=True)
    return Cost(*json.loads(replay.stdout.readline()))


def profile_of(checkout: Path) -> Seen:
    """Of the steps behind the first few."""
    with process(checkout, profiled.__name__, NUM_STEPS) as replay:
        assert replay.stdout is not None
        *_, last = replay.stdout
    return Seen(*json.loads(last))


def report_profile(checkouts: Sequence[Path]) -> None:
    """Print the parts of a step, and the kinds of operations of a long one."""
    from benchmarks.learner.step_parts import by_kind  # not where another checkout's process imports this file

    seen = {path: profile_of(path) for path in checkouts}
    print(f"| CPU ms a step | {' | '.join(map(_name, checkouts))} |\n|---|{'---|' * len(checkouts)}")
    for part in {part: None for one in seen.values() for part in one.parts}:
        columns = [1000 * one.parts.get(part, 0.0) / NUM_PROFILED for one in seen.values()]
        print(f"| {part} | {' | '.join(f'{column:.1f}' for column in columns)} |")
    shares = [by_kind(one.operations) for one in seen.values()]
    print(f"\n| share of step {PROFILED_STEP} | {' | '.join(map(_name, checkouts))} |\n|---|{'---|' * len(checkouts)}")
    for kind in shares[0]:
        print(f"| {kind} | {' | '.join(f'{one[kind]:.0%}' for one in shares)} |")


def _name(checkout: Path) -> str:
    return "this one" if checkout == ROOT else str(checkout)


def _cpu(steps: Sequence[Cost]) -> float:
    return sum(step.cpu for step in steps)


def _median_of_steps(replays: Sequence[Sequence[Cost]]) -> Cost:
    """The mean over the steps, of each the median of its replays."""
    medians = [[statistics.median(column) for column in zip(*step, strict=True)] for step in zip(*replays, strict=True)]
    return Cost(*(statistics.fmean(column) for column in zip(*medians, strict=True)))


def main(argv: Sequence[str]) -> int:
    """Replay in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", action="append", default=[], help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args(argv)
    checkouts = [ROOT, *(path.resolve() for path in arguments.beside)]
    for checkout in checkouts:
        if not (checkout / "learner").is_dir():  # else the installed one would be measured
            parser.error(f"argument --beside: {checkout} has no folder learner/; expected a checkout since 2b5aa37")
    if arguments.profile:
        report_profile(checkouts)
        return 0
    turns = [measured_in_turn(checkouts) for _ in range(arguments.repeats)]
    print("\n| checkout | CPU ms a step | wall ms a step | CPU, this one = 1 | of each turn |\n|---|---|---|---|---|")
    medians = [_median_of_steps([turn[place] for turn in turns]) for place in range(len(checkouts))]
    for place, (checkout, median) in enumerate(zip(checkouts, medians, strict=True)):
        of_turns = " ".join(f"{_cpu(turn[place]) / _cpu(turn[0]):.2f}" for turn in turns)
        ratio = median.cpu / medians[0].cpu
        columns = (_name(checkout), f"{median.cpu * 1000:.0f}", f"{median.wall * 1000:.0f}", f"{ratio:.2f}", of_turns)
        print(f"| {' | '.join(columns)} |")
    print(f"\nmedians of {arguments.repeats} replays; load of the machine: {os.getloadavg()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
