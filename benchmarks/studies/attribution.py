"""What makes T-PPO fast: PPO and T-PPO, each in lockstep, overlapped and streaming, on fresh seeds of the quick start.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.attribution --seeds 5

PPO trains whole responses, T-PPO windows of 256 tokens, with the same services, slots, rates and number of rows a step.
A run of T-PPO has a tenth more steps, since with windows fewer responses finish in a step: at its end it has trained as
many responses as PPO (equal responses), and after as many steps as PPO has it has trained as many rows (equal rows).
The six take the gain apart: overlap (PPO overlapped), windows refilled at the step's border (T-PPO overlapped), refill
at once (T-PPO streaming), and refill at once without windows (PPO streaming).
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev

from benchmarks import results
from benchmarks.results import FOLDER, QUICK_FOLDER, Chapter, Section, chapter_parser, table
from benchmarks.studies.timed_runs import FIRST_SEED, ROWS, Outcome, Study, Variant, outcome_of
from services.local.compare.paired import Difference, paired_difference

MODES = ("lockstep", "overlapped", "streaming")
WINDOWS_SHARE = 1.1  # of the steps, for T-PPO
PPO = {mode: Variant(name=f"PPO {mode}", overrides=("run.algorithm=ppo", f"run.mode={mode}")) for mode in MODES}
TPPO = {
    mode: Variant(name=f"T-PPO {mode}", overrides=("run.algorithm=tppo", f"run.mode={mode}"), step_share=WINDOWS_SHARE)
    for mode in MODES
}
VARIANTS = (*PPO.values(), *TPPO.values())
EQUAL = 0.01
"""Two accuracies count as equal when the 95 % interval of their difference lies within this."""
TARGETS = (0.90, 0.94)
STEPS_APART = (  # the decomposition: what is added, to what, and what comes of it
    ("overlap", "PPO lockstep", "PPO overlapped"),
    ("windows, refilled at the step's border", "PPO overlapped", "T-PPO overlapped"),
    ("refill at once, with windows", "T-PPO overlapped", "T-PPO streaming"),
    ("refill at once, without windows", "PPO overlapped", "PPO streaming"),
    ("windows alone", "PPO lockstep", "T-PPO lockstep"),
    ("windows, where slots are refilled at once", "PPO streaming", "T-PPO streaming"),
    ("all of it", "PPO lockstep", "T-PPO streaming"),
)
RUNS = "runs"  # the folder in that of `make bench`
QUICK = ("run.max_response_length=512", "evaluation.num_prompts=16")
Runs = Mapping[str, Mapping[int, Outcome]]
"""By variant and seed."""


def by_variant(outcomes: Sequence[Outcome]) -> Runs:
    found: dict[str, dict[int, Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.variant, {})[outcome.seed] = outcome
    return found


def num_responses(section: Section) -> int:
    """That all are compared at: what whole responses train in their steps."""
    return int(section["steps"]) * ROWS


def seconds_at_responses(outcome: Outcome, number: int) -> float:
    return outcome.seconds_at(outcome.step_of_responses(number))


def exact_at_responses(outcome: Outcome, number: int) -> float:
    return outcome.exact_at(outcome.step_of_responses(number))


def tables(section: Section) -> dict[str, str]:
    """Of the page."""
    runs = by_variant([outcome_of(line) for line in section["runs"]])
    number = num_responses(section)
    return {
        "attribution": "\n\n".join((cost_table(runs, number), accuracy_table(runs, number, int(section["steps"])))),
        "attribution-cpu": cpu_table(runs),
        "decomposition": "\n\n".join((decomposition_table(runs, number), "\n".join(findings(runs, number)))),
        "streaming": streaming_table(runs, number),
    }


def spread(numbers: Sequence[float | None], form: str = "{:.1f}") -> str:
    """Mean and standard deviation over the seeds."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or not known:
        return f"{len(known)} of {len(numbers)} seeds"
    deviation = f" ± {form.format(stdev(known))}" if len(known) > 1 else ""
    return f"{form.format(fmean(known))}{deviation}"


def cost_table(runs: Runs, number: int) -> str:
    columns: dict[str, tuple[str, Callable[[Outcome], float]]] = {
        f"seconds for {number} responses": ("{:.1f}", lambda one: seconds_at_responses(one, number)),
        "CPU seconds": ("{:.1f}", lambda one: sum(one.cpu_seconds.values()) * per_response(one, number)),
        "decode steps": ("{:,.0f}", lambda one: one.decode_steps * per_response(one, number)),
        "slot occupancy": ("{:.2f}", lambda one: one.slot_occupancy),
        "tokens the policy's pass reads, per token trained": (
            "{:.2f}",
            lambda one: one.read_tokens / one.window_tokens,
        ),
        "token lag": ("{:.2f}", lambda one: one.token_lag),
        "largest token lag": ("{:.0f}", lambda one: one.largest_token_lag),
    }
    rows = [
        [variant, str(len(of)), *(spread([get(one) for one in of.values()], form) for form, get in columns.values())]
        for variant, of in runs.items()
    ]
    return table(["", "seeds", *columns], rows)


def per_response(outcome: Outcome, number: int) -> float:
    """The share of the run in which so many responses were trained."""
    return outcome.step_of_responses(number) / outcome.steps


def accuracy_table(runs: Runs, number: int, steps: int) -> str:
    columns: dict[str, tuple[str, Callable[[Outcome], float | None]]] = {
        f"exact accuracy at {number} responses": ("{:.4f}", lambda one: exact_at_responses(one, number)),
        f"at {number} rows": ("{:.4f}", lambda one: one.exact_at(steps)),
        **{
            f"seconds to {target:.2f}": ("{:.1f}", lambda one, target=target: one.seconds_to(target))  # type: ignore[misc]
            for target in TARGETS
        },
    }
    rows = [
        [variant, *(spread([get(one) for one in of.values()], form) for form, get in columns.values())]
        for variant, of in runs.items()
    ]
    return table(["", *columns], rows)


def cpu_table(runs: Runs) -> str:
    kinds = sorted({kind for of in runs.values() for one in of.values() for kind in one.cpu_seconds})
    rows = [
        [
            variant,
            *(
                spread([1000 * one.cpu_seconds.get(kind, 0.0) / one.responses[-1] for one in of.values()], "{:.2f}")
                for kind in kinds
            ),
        ]
        for variant, of in runs.items()
    ]
    return table(["CPU seconds for 1,000 responses", *kinds], rows)


def ratio(of: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """Of the logarithms, seed by seed; None with fewer than two common seeds."""
    seeds = sorted(of.keys() & base.keys())
    if len(seeds) < 2:
        return None
    return paired_difference([math.log(of[seed]) for seed in seeds], [math.log(base[seed]) for seed in seeds])


def shown_ratio(found: Difference | None) -> str:
    """As a factor, with its 95 % interval."""
    if found is None:
        return ""
    low, middle, high = (math.exp(found.mean + place * found.margin) for place in (-1, 0, 1))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def seconds_of(runs: Runs, variant: str, number: int) -> dict[int, float]:
    return {seed: seconds_at_responses(one, number) for seed, one in runs.get(variant, {}).items()}


def accuracy_difference(runs: Runs, of: str, base: str, number: int) -> Difference | None:
    """Of the exact accuracies at equal responses, seed by seed."""
    seeds = sorted(runs.get(of, {}).keys() & runs.get(base, {}).keys())
    if len(seeds) < 2:
        return None
    ours, theirs = ([exact_at_responses(runs[name][seed], number) for seed in seeds] for name in (of, base))
    return paired_difference(ours, theirs)


def is_equal(difference: Difference) -> bool:
    return abs(difference.mean) + difference.margin <= EQUAL


def decomposition_table(runs: Runs, number: int) -> str:
    rows = []
    for added, base, result in STEPS_APART:
        faster = ratio(seconds_of(runs, base, number), seconds_of(runs, result, number))
        accuracy = accuracy_difference(runs, result, base, number)
        shown = "" if accuracy is None else f"{accuracy}{' (equal)' if is_equal(accuracy) else ''}"
        rows.append([added, base, result, shown_ratio(faster), shown])
    head = [
        "what is added",
        "to",
        "gives",
        "times faster, 95 % interval",
        "exact accuracy, difference and 95 % interval",
    ]
    return table(head, rows)


def findings(runs: Runs, number: int) -> Iterator[str]:
    """The decomposition in sentences, with what wins nothing named as such."""
    for added, base, result in STEPS_APART:
        found = ratio(seconds_of(runs, base, number), seconds_of(runs, result, number))
        if found is None:
            continue
        low, high = math.exp(found.mean - found.margin), math.exp(found.mean + found.margin)
        verdict = "is faster" if low > 1 else "is slower" if high < 1 else "shows no difference in speed"
        yield f"* {added[0].upper()}{added[1:]} ({result} against {base}): {verdict}, {shown_ratio(found)} times."


def streaming_table(runs: Runs, number: int) -> str:
    """What windows buy where slots are refilled at once, in which whole responses may be as fast."""
    whole, windows = (runs.get(f"{system} streaming", {}) for system in ("PPO", "T-PPO"))
    seeds = sorted(whole.keys() & windows.keys())
    until = {seed: min(seconds_at_responses(of[seed], number) for of in (whole, windows)) for seed in seeds}
    measures: dict[str, tuple[str, Callable[[Outcome], float | None]]] = {
        "token lag, mean": ("{:.2f}", lambda one: one.token_lag),
        "token lag, largest": ("{:.0f}", lambda one: one.largest_token_lag),
        "exact accuracy when the faster one has its responses": (
            "{:.4f}",
            lambda one: one.exact_at(one.step_at(until[one.seed])),
        ),
        "memory of the generator, MB": ("{:.0f}", lambda one: one.memory_mb.get("generation")),
        "memory of the learner, MB": ("{:.0f}", lambda one: one.memory_mb.get("learner")),
        "seconds until a response of more than 512 tokens first trains": (
            "{:.2f}",
            lambda one: one.first_trained_seconds,
        ),
    }
    rows = [
        [name, *(spread([get(of[seed]) for seed in seeds], form) for of in (whole, windows))]
        for name, (form, get) in measures.items()
    ]
    return table(["refill at once", "whole responses", "windows"], rows)


CHAPTER = Chapter(
    name="attribution",
    module="benchmarks.studies.attribution",
    minutes=70,
    places=("attribution", "attribution-cpu", "decomposition", "streaming"),
    tables=tables,
)


def parser(description: str | None) -> argparse.ArgumentParser:
    """What the studies have in common; they keep their runs in one folder, so that what two need is run once."""
    made = chapter_parser(description, quick="two seeds of a few steps")
    made.set_defaults(folder=FOLDER / RUNS)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--first-seed", type=int, default=FIRST_SEED)
    made.add_argument("--steps", type=int, default=120, help="of whole responses; windows take a tenth more")
    made.add_argument("--dry-run", action="store_true", help="say what is missing and how long it takes")
    return made


def study_of(arguments: argparse.Namespace, variants: Sequence[Variant]) -> Study:
    if arguments.quick:
        arguments.seeds, arguments.steps, arguments.folder = 2, 4, QUICK_FOLDER / RUNS
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    settings = QUICK if arguments.quick else ()
    return Study(folder=arguments.folder, variants=variants, seeds=seeds, num_steps=arguments.steps, settings=settings)


def keep_study(chapter: Chapter, study: Study, outcomes: Sequence[Outcome], *, is_quick: bool) -> None:
    """The runs as the section of the chapter, and its tables on the console."""
    section: Section = {"steps": study.num_steps, "runs": [asdict(outcome) for outcome in outcomes]}
    print("\n\n".join(chapter.tables(section).values()))
    if not is_quick:
        results.keep(chapter.name, section, seconds=sum(outcome.seconds_of_machine for outcome in outcomes))


def main(argv: Sequence[str]) -> None:
    arguments = parser(__doc__).parse_args(argv)
    study = study_of(arguments, VARIANTS)
    if arguments.dry_run:
        print(study.announcement())
        return
    keep_study(CHAPTER, study, study.run(), is_quick=arguments.quick)


if __name__ == "__main__":
    main(sys.argv[1:])
