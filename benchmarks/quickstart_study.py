"""What T-PPO's own choices do on the quick-start task: one changed at a time, several seeds each.

    OMP_NUM_THREADS=1 python -m benchmarks.quickstart_study --seeds 3

Every run is a `tppo run` in `lockstep`, where nothing depends on how fast a machine is. A run that has ended is not
repeated: interrupted, the same command goes on. Leaves `study.md` and `study.json` in the folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

QUICKSTART = Path(__file__).parents[1] / "examples" / "iterated_map" / "quickstart.toml"
BASE = "as in the quick start: W = L/8, K = 8, hold, scale_only, lambda 0.98"
COMMON = ("run.mode=lockstep", "evaluation.test_freq=40", "evaluation.after_training=true", "dashboard.port=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "W = L/4": ("run.window_length=512",),
    "W = L/2": ("run.window_length=1024",),
    "K = 0": ("algorithm.num_ignored_tail_tokens=0",),
    "K = 4": ("algorithm.num_ignored_tail_tokens=4",),
    "K = 16": ("algorithm.num_ignored_tail_tokens=16",),
    "boundary bootstrap": ("algorithm.boundary=bootstrap",),
    "whitening full": ("algorithm.advantage_whitening=full",),
    "whitening none": ("algorithm.advantage_whitening=none",),
    "lambda 0.95": ("algorithm.lam=0.95",),
    "lambda 1": ("algorithm.lam=1.0",),
    "lambda length-adaptive": ("algorithm.lam=length_adaptive",),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run in numbers; means are over the steps of its last quarter, in which they are defined."""

    variant: str
    seed: int
    accuracy_after_40: float
    final_accuracy: float
    exact_after_40: float  # without sampling noise
    final_exact: float
    final_response_length: float  # tokens, on the evaluation set
    unfinished_advantage: float | None  # mean over the tokens of unfinished rows, whitened
    bias_at_cut: float | None  # mean absolute difference of EGAE to the whole response's GAE
    explained_variance_cut: float | None
    decode_steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("runs/study"))
    arguments = parser.parse_args()
    outcomes = []
    for seed in range(1, arguments.seeds + 1):
        for number, variant in enumerate(VARIANTS):
            folder = run_folder(arguments.folder, number, seed)
            if not (folder / "summary.json").exists():
                print(f"seed {seed}: {variant}", flush=True)
                run(folder, variant, seed=seed, num_steps=arguments.steps)
            outcomes.append(outcome(folder, variant, seed))
    write(outcomes, arguments.folder)
    print((arguments.folder / "study.md").read_text(encoding="utf-8"))


def run_folder(folder: Path, number: int, seed: int) -> Path:
    return folder / f"study-{number:02d}-seed{seed}"


def run(folder: Path, variant: str, *, seed: int, num_steps: int) -> None:
    """Raises CalledProcessError when it does not come to its end."""
    own = (f"run.name={folder.name}", f'run.directory="{folder.parent}"', f"run.seed={seed}")
    overrides = (*COMMON, *own, f"run.total_training_steps={num_steps}", *VARIANTS[variant])
    options = [part for override in overrides for part in ("--set", override)]
    subprocess.run(
        [sys.executable, "-m", "tppo", "run", str(QUICKSTART), *options], check=True, stdout=subprocess.DEVNULL
    )


def outcome(folder: Path, variant: str, seed: int) -> Outcome:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    evaluations = {line["eval/step"]: line for line in lines if line["kind"] == "evaluation"}
    last = evaluations[max(evaluations)]
    after_40 = evaluations[min(40, max(evaluations))]
    late = steps[-len(steps) // 4 :]
    return Outcome(
        variant=variant,
        seed=seed,
        accuracy_after_40=after_40["eval/accuracy"],
        final_accuracy=last["eval/accuracy"],
        exact_after_40=after_40["eval/accuracy_exact"],
        final_exact=last["eval/accuracy_exact"],
        final_response_length=last["eval/response_length/mean"],
        unfinished_advantage=mean_of(late, "critic/advantages/unfinished_mean_whitened"),
        bias_at_cut=mean_of(late, "critic/bias_at_cut/mean_abs"),
        explained_variance_cut=mean_of(late, "critic/vf_explained_var_cut"),
        decode_steps=json.loads((folder / "summary.json").read_text(encoding="utf-8"))["decode_steps"],
    )


def mean_of(lines: Sequence[dict[str, Any]], name: str) -> float | None:
    known = [line[name] for line in lines if line.get(name) is not None]
    return statistics.mean(known) if known else None


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    (folder / "study.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n", encoding="utf-8")
    (folder / "study.md").write_text("\n".join(table(outcomes)) + "\n", encoding="utf-8")


COLUMNS = {
    "accuracy_after_40": ("accuracy after 40 steps", "{:.3f}"),
    "final_accuracy": ("accuracy at the end", "{:.3f}"),
    "exact_after_40": ("exact after 40 steps", "{:.4f}"),
    "final_exact": ("exact at the end", "{:.4f}"),
    "final_response_length": ("response length", "{:.0f}"),
    "unfinished_advantage": ("mean whitened advantage of unfinished rows", "{:+.3f}"),
    "bias_at_cut": ("bias at the cut, absolute", "{:.3f}"),
    "explained_variance_cut": ("explained variance, cut windows", "{:.2f}"),
    "decode_steps": ("decode steps, evaluation included", "{:,.0f}"),
}


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Mean and standard deviation over the seeds."""
    yield f"| | {' | '.join(title for title, _ in COLUMNS.values())} |"
    yield f"|---|{'---|' * len(COLUMNS)}"
    for variant in VARIANTS:
        runs = [one for one in outcomes if one.variant == variant]
        cells = [cell([getattr(one, name) for one in runs], form) for name, (_, form) in COLUMNS.items()]
        yield f"| {variant} | {' | '.join(cells)} |"


def cell(numbers: Sequence[float | None], form: str) -> str:
    known = [number for number in numbers if number is not None]
    if not known:
        return ""
    mean = form.format(statistics.mean(known))
    return mean if len(known) < 2 else f"{mean} ± {form.replace('+', '').format(statistics.stdev(known))}"


if __name__ == "__main__":
    main()
