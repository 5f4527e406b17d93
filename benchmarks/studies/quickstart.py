"""What T-PPO's own choices do on the quick-start task: one changed at a time, several paired seeds each.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.quickstart --seeds 5

Every run is a `tppo run`, in `lockstep` where the variant says nothing else: there nothing depends on how fast a
machine is. It appends one line to `results.jsonl` in the folder; the same command, later, repeats no run that has its
line, and says before it starts how much time the missing ones take. `study.md` follows after each run.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.local.compare.paired import Difference, holm, paired_difference
from tppo.run_folder.json_lines import read_objects

QUICKSTART = Path(__file__).parents[2] / "examples" / "iterated_map" / "quickstart.toml"
BASE = "as in the quick start"
COMMON = ("run.mode=lockstep", "evaluation.test_freq=40", "dashboard.port=0", "trace.enabled=false")
VARIANTS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "W = L/4": ("run.window_length=512",),
    "W = L/2": ("run.window_length=1024",),
    "K = 0": ("algorithm.num_ignored_tail_tokens=0",),
    "K = 25, half of 1/(1 - lambda)": ("algorithm.num_ignored_tail_tokens=25",),
    "K = 50, 1/(1 - lambda)": ("algorithm.num_ignored_tail_tokens=50",),
    "boundary bootstrap": ("algorithm.boundary=bootstrap",),
    "whitening full": ("algorithm.advantage_whitening=full",),
    "whitening none": ("algorithm.advantage_whitening=none",),
    "lambda 0.95": ("algorithm.lam=0.95",),
    "lambda 1": ("algorithm.lam=1.0",),
    "lambda length-adaptive": ("algorithm.lam=length_adaptive",),
    "normaliser rows": ("algorithm.loss_normalizer=rows",),
    "normaliser constant": ("algorithm.loss_normalizer=constant",),
    "normaliser running": ("algorithm.loss_normalizer=running",),
    "critic: token mean": ("critic.loss_aggregation=token_mean",),
    "value model not pre-trained": ("model.critic_path=", "critic.warmup_steps=10"),
    "1 mini-batch at 3e-4": (
        "actor.ppo_mini_batches=1",
        "actor.lr=3e-4",
        "actor.lr_warmup_steps=12",
        "critic.ppo_mini_batches=1",
    ),
    "8 mini-batches": ("actor.ppo_mini_batches=8", "critic.ppo_mini_batches=8"),
    **{
        f"streaming, lag bound {lag}": (
            "run.mode=streaming",
            f"run.max_policy_lag={lag}",
            "generation.num_prefetched=0",
        )
        for lag in (0, 1, 2, 4, 8)
    },
}
LONGEST = "k_above_200"  # the prompts that carry most of what is left to learn
MIN_SEEDS = 5  # a row with fewer is not printed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run in numbers: a line of `results.jsonl`."""

    variant: str
    seed: int
    steps: int
    overrides: tuple[str, ...]
    seconds: float  # of the machine
    exact_after_40: float
    exact_at_end: float
    lowest_exact: float  # of the evaluations from step 80 on
    exact_longest: float  # at the end, prompts of the longest solutions
    response_length: float  # tokens, on the evaluation set at the end
    clip_fraction: float | None  # this and what follows: means over the steps of the last quarter
    token_lag: float | None
    bias_at_cut: float | None
    explained_variance_cut: float | None

    @property
    def key(self) -> tuple[str, int, int, tuple[str, ...]]:
        """What another call of the study must not repeat."""
        return self.variant, self.seed, self.steps, self.overrides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=MIN_SEEDS)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="these variants and the base; default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/study"))
    parser.add_argument("--dry-run", action="store_true", help="say what is missing and how long it takes")
    arguments = parser.parse_args()
    variants = chosen(arguments.only)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = arguments.folder / "results.jsonl"
    outcomes = [outcome_of(line) for line in read_objects(results)] if results.exists() else []
    missing = list(missing_runs(outcomes, variants, num_seeds=arguments.seeds, num_steps=arguments.steps))
    print(announcement(outcomes, len(missing), num_steps=arguments.steps), flush=True)
    if arguments.dry_run:
        return
    for number, (variant, seed) in enumerate(missing, start=1):
        print(f"[{number}/{len(missing)}] seed {seed}: {variant}", flush=True)
        outcomes.append(measured(arguments.folder, variant, seed=seed, num_steps=arguments.steps))
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcomes[-1])) + "\n")
        write(outcomes, arguments.folder, num_steps=arguments.steps)
    write(outcomes, arguments.folder, num_steps=arguments.steps)
    print((arguments.folder / "study.md").read_text(encoding="utf-8"))


def chosen(names: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    unknown = [name for name in names or () if name not in VARIANTS]
    if unknown:
        raise SystemExit(f"--only: unknown variant {unknown[0]!r}; expected some of {', '.join(map(repr, VARIANTS))}")
    return VARIANTS if names is None else {name: VARIANTS[name] for name in (BASE, *names)}


def outcome_of(line: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**line, "overrides": tuple(line["overrides"])})


def missing_runs(
    outcomes: Sequence[Outcome], variants: Mapping[str, tuple[str, ...]], *, num_seeds: int, num_steps: int
) -> Iterator[tuple[str, int]]:
    """Seed after seed, so that a study that is interrupted has pairs."""
    known = {one.key for one in outcomes}
    for seed in range(1, num_seeds + 1):
        for variant, overrides in variants.items():
            if (variant, seed, num_steps, overrides) not in known:
                yield variant, seed


def announcement(outcomes: Sequence[Outcome], num_missing: int, *, num_steps: int) -> str:
    per_step = [one.seconds / one.steps for one in outcomes]
    if not num_missing:
        return "Every run has its line."
    if not per_step:
        return f"{num_missing} runs of {num_steps} steps; how long one takes is known after the first."
    minutes = num_missing * num_steps * sum(per_step) / len(per_step) / 60
    return f"{num_missing} runs of {num_steps} steps, about {minutes:.0f} minutes by the {len(per_step)} that are done."


def measured(folder: Path, variant: str, *, seed: int, num_steps: int) -> Outcome:
    """One run, from the beginning. Raises CalledProcessError when it does not come to its end."""
    name = f"study-{list(VARIANTS).index(variant):02d}-seed{seed}-steps{num_steps}"
    own = (f"run.name={name}", f'run.directory="{folder}"', f"run.seed={seed}")
    overrides = (*COMMON, *own, f"run.total_training_steps={num_steps}", *VARIANTS[variant])
    options = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "tppo", "run", str(QUICKSTART), "--exit-at-end", *options]
    shutil.rmtree(folder / name, ignore_errors=True)  # of a run that was interrupted
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return outcome(folder / name, variant, seed=seed, num_steps=num_steps, seconds=time.monotonic() - began)


def outcome(folder: Path, variant: str, *, seed: int, num_steps: int, seconds: float) -> Outcome:
    lines = read_objects(folder / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    evaluations = {line["eval/step"]: line for line in lines if line["kind"] == "evaluation"}
    last = evaluations[max(evaluations)]
    late = steps[-len(steps) // 4 :]
    settled = [line["eval/accuracy_exact"] for step, line in evaluations.items() if step >= 80]
    return Outcome(
        variant=variant,
        seed=seed,
        steps=num_steps,
        overrides=VARIANTS[variant],
        seconds=round(seconds, 1),
        exact_after_40=evaluations[min(40, max(evaluations))]["eval/accuracy_exact"],
        exact_at_end=last["eval/accuracy_exact"],
        lowest_exact=min(settled, default=last["eval/accuracy_exact"]),
        exact_longest=last[f"eval/accuracy_exact/{LONGEST}"],
        response_length=last["eval/response_length/mean"],
        clip_fraction=mean_of(late, "actor/pg_clipfrac"),
        token_lag=mean_of(late, "policy_lag/mean"),
        bias_at_cut=mean_of(late, "critic/bias_at_cut/mean_abs"),
        explained_variance_cut=mean_of(late, "critic/vf_explained_var_cut"),
    )


def mean_of(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [line[name] for line in lines if line.get(name) is not None]
    return sum(known) / len(known) if known else None


COLUMNS = {
    "exact_after_40": ("exact accuracy after 40 steps", "{:.4f}"),
    "exact_at_end": ("at the end", "{:.4f}"),
    "lowest_exact": ("lowest from step 80 on", "{:.4f}"),
    "exact_longest": ("at the end, k > 200", "{:.3f}"),
    "response_length": ("response length", "{:.0f}"),
    "clip_fraction": ("clipped tokens", "{:.4f}"),
    "token_lag": ("token lag", "{:.2f}"),
    "bias_at_cut": ("bias at the cut, absolute", "{:.3f}"),
    "explained_variance_cut": ("explained variance, cut windows", "{:.2f}"),
}
JUDGED = ("exact_at_end", "exact_longest")  # whose differences to the base are tested


def write(outcomes: Sequence[Outcome], folder: Path, *, num_steps: int) -> None:
    """`study.md` from the lines of this number of steps and of the variants as they are now."""
    by_variant = {
        variant: {one.seed: one for one in outcomes if one.key == (variant, one.seed, num_steps, overrides)}
        for variant, overrides in VARIANTS.items()
    }
    complete = {variant: runs for variant, runs in by_variant.items() if len(runs) >= MIN_SEEDS}
    left_out = [variant for variant, runs in by_variant.items() if variant not in complete]
    document = [*means_table(complete), "", *differences_table(complete)]
    if left_out:
        document += ["", f"Fewer than {MIN_SEEDS} seeds, not shown: {'; '.join(left_out)}."]
    (folder / "study.md").write_text("\n".join(document) + "\n", encoding="utf-8")


def means_table(complete: Mapping[str, Mapping[int, Outcome]]) -> Iterator[str]:
    """Mean and standard deviation over the seeds."""
    yield f"| | seeds | {' | '.join(title for title, _ in COLUMNS.values())} |"
    yield f"|---|---|{'---|' * len(COLUMNS)}"
    for variant, runs in complete.items():
        cells = [cell([getattr(one, name) for one in runs.values()], form) for name, (_, form) in COLUMNS.items()]
        yield f"| {variant} | {len(runs)} | {' | '.join(cells)} |"


def differences_table(complete: Mapping[str, Mapping[int, Outcome]]) -> Iterator[str]:
    """Paired differences to the base: 95 % intervals, and p-values after Holm over the whole table."""
    base = complete.get(BASE)
    others = [variant for variant in complete if variant != BASE]
    if base is None or not others:
        yield "No differences yet: the base, or every other row, has too few seeds."
        return
    cells = [(variant, name) for variant in others for name in JUDGED]
    differences = [difference(complete[variant], base, name) for variant, name in cells]
    corrected = dict(zip(cells, holm([one.p_value for one in differences]), strict=True))
    found = dict(zip(cells, differences, strict=True))
    yield f"Difference to the base, paired by seed, with 95 % interval; p after Holm over {len(cells)} comparisons."
    yield ""
    yield f"| | {' | '.join(f'{COLUMNS[name][0]} | p' for name in JUDGED)} |"
    yield f"|---|{'---|---|' * len(JUDGED)}"
    for variant in others:
        shown = [f"{found[variant, name]} | {corrected[variant, name]:.2f}" for name in JUDGED]
        yield f"| {variant} | {' | '.join(shown)} |"


def difference(runs: Mapping[int, Outcome], base: Mapping[int, Outcome], name: str) -> Difference:
    seeds = sorted(runs.keys() & base.keys())
    return paired_difference(
        [getattr(runs[seed], name) for seed in seeds], [getattr(base[seed], name) for seed in seeds]
    )


def cell(numbers: Sequence[float | None], form: str) -> str:
    known = [number for number in numbers if number is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    deviation = (sum((number - mean) ** 2 for number in known) / max(1, len(known) - 1)) ** 0.5
    return f"{form.format(mean)} ± {form.format(deviation)}"


if __name__ == "__main__":
    main()
