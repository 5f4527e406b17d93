"""What a training step of the quick start takes: recorded steps, replayed here and in other checkouts beside.

    OMP_NUM_THREADS=1 python -m benchmarks.learner.step
    git worktree add /tmp/before COMMIT && OMP_NUM_THREADS=1 python -m benchmarks.learner.step --beside /tmp/before
    OMP_NUM_THREADS=1 python -m benchmarks.learner.step --profile

The recording is the inbox of 60 steps of 32 windows (benchmarks/recordings/), as the learner of 2b5aa37 had them; every
checkout since can replay it, so what is trained is the same to the token. One mini-batch a step, as then. The checkouts
take turns, with this interpreter's packages; compare figures of one run. The first four steps are left out. `--profile`
says what the parts of a step take in each checkout, and what kinds of operations a long step is made of.
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
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "benchmarks" / "recordings" / "quickstart_60_steps.log.xz"
NUM_WARM_UP = 4
NUM_STEPS = 50
PROFILED_STEP = 30
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
    """What a checkout's process reports."""

    costs: list[Cost]
    parts: dict[str, float]  # seconds of all steps behind the first few
    operations: dict[str, float]  # microseconds of a long step


def inside(run: str, *, profiles: bool) -> None:
    """In the checkout's process: replay, and print what each step took."""
    step_parts = import_module("step_parts")
    trainer, parts = import_module(_first_of(TRAINERS)).Trainer, step_parts.Parts()
    seen, step = Seen([], {}, {}), trainer.step
    if profiles:
        parts.watch()

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        if len(seen.costs) == NUM_WARM_UP:
            parts.seconds.clear()
        began = time.thread_time(), time.perf_counter()
        if profiles and len(seen.costs) + 1 == PROFILED_STEP:
            before = dict(parts.seconds)
            result, found = step_parts.operations(lambda: step(self, *arguments, **options))
            seen.operations.update(found)
            parts.seconds.clear()  # the profiler's own time is in those of this step
            parts.seconds.update(before)
        else:
            with parts.timed(step_parts.REST):
                result = step(self, *arguments, **options)
        seen.costs.append(Cost(time.thread_time() - began[0], time.perf_counter() - began[1]))
        return result

    trainer.step = timed
    import_module(_first_of(REPLAYS)).main([run, "--until", str(NUM_STEPS)])
    print(json.dumps(seen._replace(parts=dict(parts.seconds))))


def _first_of(modules: Sequence[str]) -> str:
    for module in modules:
        try:
            if find_spec(module) is not None:
                return module
        except ModuleNotFoundError:  # its package
            continue
    raise SystemExit(f"none of {', '.join(modules)}; expected a checkout since 2b5aa37")


def measured(checkout: Path, *, profiles: bool = False) -> Seen:
    """Of the steps behind the first few."""
    with tempfile.TemporaryDirectory() as name:
        run = recorded_run(Path(name) / "quickstart")
        code = f"from step import inside; inside({str(run)!r}, profiles={profiles})"
        path = os.pathsep.join([str(checkout), str(Path(__file__).parent)])
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            cwd=name,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise SystemExit(f"{checkout}: {ran.stderr[-2000:]}")
    costs, parts, operations = json.loads(ran.stdout.splitlines()[-1])
    return Seen([Cost(*cost) for cost in costs][NUM_WARM_UP:], parts, operations)


def report_profile(checkouts: Sequence[Path]) -> None:
    """Print the parts of a step, and the kinds of operations of a long one."""
    from benchmarks.learner.step_parts import by_kind  # not where another checkout's process imports this file

    seen = {path: measured(path, profiles=True) for path in checkouts}
    print(f"| CPU ms a step | {' | '.join(map(_name, checkouts))} |\n|---|{'---|' * len(checkouts)}")
    for part in {part: None for one in seen.values() for part in one.parts}:
        columns = [1000 * one.parts.get(part, 0.0) / (len(one.costs) - 1) for one in seen.values()]
        print(f"| {part} | {' | '.join(f'{column:.1f}' for column in columns)} |")
    shares = [by_kind(one.operations) for one in seen.values()]
    print(f"\n| share of step {PROFILED_STEP} | {' | '.join(map(_name, checkouts))} |\n|---|{'---|' * len(checkouts)}")
    for kind in shares[0]:
        print(f"| {kind} | {' | '.join(f'{one[kind]:.0%}' for one in shares)} |")


def _name(checkout: Path) -> str:
    return "this one" if checkout == ROOT else str(checkout)


def main(argv: Sequence[str]) -> int:
    """Replay in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", action="append", default=[], help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args(argv)
    checkouts = [ROOT, *(path.resolve() for path in arguments.beside)]
    if arguments.profile:
        report_profile(checkouts)
        return 0
    costs: dict[Path, list[Cost]] = {path: [] for path in checkouts}
    for _ in range(arguments.repeats):
        for checkout in checkouts:
            steps = measured(checkout).costs
            costs[checkout].append(Cost(*(statistics.fmean(column) for column in zip(*steps, strict=True))))
    print("\n| checkout | CPU ms a step | wall ms a step | CPU, this one = 1 |\n|---|---|---|---|")
    medians = {
        path: Cost(*(statistics.median(column) for column in zip(*of, strict=True))) for path, of in costs.items()
    }
    for checkout, median in medians.items():
        ratio = median.cpu / medians[ROOT].cpu
        print(f"| {_name(checkout)} | {median.cpu * 1000:.0f} | {median.wall * 1000:.0f} | {ratio:.2f} |")
    print(f"\nmedians of {arguments.repeats}; load of the machine: {os.getloadavg()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
