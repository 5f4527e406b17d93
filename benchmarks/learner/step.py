"""What a training step of the quick start takes: recorded steps, replayed here and in other checkouts beside.

    OMP_NUM_THREADS=1 python -m benchmarks.learner.step
    git worktree add /tmp/before COMMIT && OMP_NUM_THREADS=1 python -m benchmarks.learner.step --beside /tmp/before
    OMP_NUM_THREADS=1 python -m benchmarks.learner.step --profile

The recording is the inbox of 60 steps of 32 windows (benchmarks/recordings/), as the learner of 2b5aa37 had them; every
checkout since can replay it, so what is trained is the same to the token. One mini-batch a step, as then. The checkouts
take turns, with this interpreter's packages; compare figures of one run. The first four steps are left out. `--profile`
says what part matrix products, attention and the rest have in a long step.
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
PARTS = {"matrix products": ("aten::mm", "aten::bmm", "aten::addmm"), "attention": ("scaled_dot_product",)}
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


def inside(run: str, profile: Path | None) -> None:
    """In the checkout's process: replay, and print what each step took."""
    trainer = import_module(_first_of(TRAINERS)).Trainer
    costs: list[Cost] = []
    step = trainer.step

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        if profile is not None and len(costs) + 1 == PROFILED_STEP:
            costs.append(Cost(0.0, 0.0))
            return _profiled(lambda: step(self, *arguments, **options), profile)
        began = time.thread_time(), time.perf_counter()
        result = step(self, *arguments, **options)
        costs.append(Cost(time.thread_time() - began[0], time.perf_counter() - began[1]))
        return result

    trainer.step = timed
    import_module(_first_of(REPLAYS)).main([run, "--until", str(NUM_STEPS)])
    print(json.dumps(costs))


def _first_of(modules: Sequence[str]) -> str:
    for module in modules:
        try:
            if find_spec(module) is not None:
                return module
        except ModuleNotFoundError:  # its package
            continue
    raise SystemExit(f"none of {', '.join(modules)}; expected a checkout since 2b5aa37")


def _profiled(step: Any, path: Path) -> Any:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        result = step()
    totals = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    path.write_text(json.dumps(totals))
    return result


def measured(checkout: Path, *, profile: Path | None = None) -> list[Cost]:
    """Of each step behind the first few."""
    with tempfile.TemporaryDirectory() as name:
        run = recorded_run(Path(name) / "quickstart")
        code = f"from step import inside; from pathlib import Path; inside({str(run)!r}, {_literal(profile)})"
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
    costs = [Cost(*cost) for cost in json.loads(ran.stdout.splitlines()[-1])]
    return costs[NUM_WARM_UP:]


def _literal(profile: Path | None) -> str:
    return "None" if profile is None else f"Path({str(profile)!r})"


def report_profile() -> None:
    """Print the parts of a long step."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "profile.json"
        measured(ROOT, profile=path)
        totals = json.loads(path.read_text())
    whole = sum(totals.values())
    print(f"step {PROFILED_STEP}: {whole / 1000:.0f} ms with the profiler on")
    rest = whole
    for part, names in PARTS.items():
        size = sum(total for key, total in totals.items() if any(one in key for one in names))
        rest -= size
        print(f"  {part}: {size / whole:.0%}")
    print(f"  the rest: {rest / whole:.0%}")


def main(argv: Sequence[str]) -> int:
    """Replay in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", action="append", default=[], help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.profile:
        report_profile()
        return 0
    checkouts = [ROOT, *(path.resolve() for path in arguments.beside)]
    costs: dict[Path, list[Cost]] = {path: [] for path in checkouts}
    for _ in range(arguments.repeats):
        for checkout in checkouts:
            steps = measured(checkout)
            costs[checkout].append(Cost(*(statistics.fmean(column) for column in zip(*steps, strict=True))))
    print("\n| checkout | CPU ms a step | wall ms a step | CPU, this one = 1 |\n|---|---|---|---|")
    medians = {
        path: Cost(*(statistics.median(column) for column in zip(*of, strict=True))) for path, of in costs.items()
    }
    for checkout, median in medians.items():
        name = "this one" if checkout == ROOT else str(checkout)
        ratio = median.cpu / medians[ROOT].cpu
        print(f"| {name} | {median.cpu * 1000:.0f} | {median.wall * 1000:.0f} | {ratio:.2f} |")
    print(f"\nmedians of {arguments.repeats}; load of the machine: {os.getloadavg()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
