"""The headline: T-PPO streaming against synchronous PPO, each at its best, on the same cores for as many responses.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.headline --seeds 5
    OMP_NUM_THREADS=1 python -m benchmarks.studies.headline --sweep --seeds 2

Both sides have the rate that is the highest at which no seed loses its way (docs/decisions/0017), and several settings
of generators, slots, threads and windows; each side's fastest stands in the comparison, all stand in the table.
Synchronous PPO may use both cores in turn: two generators while it generates, two threads while it trains. Longer
windows have fewer prefixes to read again: the paper's are a third of the longest response, the quick start's an eighth.
In company, few windows wait for others to decode with (docs/decisions/0048). The ratio to the policy that sampled saves
the learner a pass (docs/decisions/0049); with T-PPO's older tokens a seed lost its way, so there it stands in the table
and not in the comparison. The runs that the attribution has as well are not repeated. `--sweep` runs rates and slots of
each side, and windows in company, instead.
"""

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.results import Chapter, Section, table
from benchmarks.studies.attribution import (
    EQUAL,
    PPO,
    TPPO,
    Runs,
    accuracy_difference,
    by_variant,
    exact_at_responses,
    is_equal,
    keep_study,
    num_responses,
    parser,
    ratio,
    seconds_of,
    shown_ratio,
    spread,
    study_of,
)
from benchmarks.studies.timed_runs import ROWS, Variant, outcome_of

TWO_GENERATORS = ("generation.replicas=2", "generation.num_slots=16", "generation.num_prefetched=16")


def with_more(variant: Variant, name: str, *overrides: str, num_threads: int = 1) -> Variant:
    """The same system in another setting."""
    return Variant(
        name=f"{variant.name}, {name}",
        overrides=(*variant.overrides, *overrides),
        step_share=variant.step_share,
        num_threads=num_threads,
    )


def to_sampler(variant: Variant) -> Variant:
    """The ratio is to the policy that sampled."""
    return with_more(variant, "ratio to the sampler", "algorithm.old_logprobs=rollout")


SYNCHRONOUS = (
    PPO["lockstep"],
    with_more(PPO["lockstep"], "two generators", *TWO_GENERATORS),
    with_more(PPO["lockstep"], "two threads", num_threads=2),
    to_sampler(PPO["lockstep"]),
    with_more(PPO["lockstep"], "two generators and threads", *TWO_GENERATORS, num_threads=2),
)
OVERLAPPED = (
    PPO["overlapped"],
    with_more(PPO["overlapped"], "two generators", *TWO_GENERATORS),
    to_sampler(PPO["overlapped"]),
)
IN_COMPANY = ("run.max_policy_lag=3", "generation.num_slots=64", "generation.gather_seconds=1")


def in_company(window_length: int) -> Variant:
    """T-PPO with windows that wait for others to decode with."""
    name, window = f"windows of {window_length} in company", f"run.window_length={window_length}"
    return with_more(TPPO["streaming"], name, window, *IN_COMPANY)


STREAMING = (
    TPPO["streaming"],
    with_more(TPPO["streaming"], "windows of 512", "run.window_length=512"),
    in_company(512),
    in_company(1024),
)
SIDES: Mapping[str, Sequence[Variant]] = {
    "T-PPO, streaming": STREAMING,
    "PPO, synchronous": SYNCHRONOUS,
    "PPO, overlapped, refill at the step's border": OVERLAPPED,
}
UNSTEADY = (to_sampler(in_company(1024)),)
"""Shown, but on no side: not every seed keeps its way."""
OURS, *OTHERS = SIDES
PROMISED = dict(zip(OTHERS, (2.5, 1.3), strict=True))
"""Times faster; what the measurement is held against."""
QUICK = (SYNCHRONOUS[-1], OVERLAPPED[0], STREAMING[0])
RATES = ("5e-5", "1e-4", "1.5e-4")
SLOTS = (16, 64)
WINDOWS = (512, 683, 1024)


def swept() -> list[Variant]:
    """Rates and slots of both sides, and windows in company."""
    sides = (PPO["lockstep"], TPPO["streaming"])
    rates = [with_more(side, f"rate {rate}", f"actor.lr={rate}") for side in sides for rate in RATES]
    slots = [with_more(side, f"{slots} slots", f"generation.num_slots={slots}") for side in sides for slots in SLOTS]
    return [*sides, *rates, *slots, *map(in_company, WINDOWS)]


def fastest(runs: Runs, variants: Sequence[Variant], number: int) -> str | None:
    """By the mean over the seeds; None where none was run."""
    means = {one.name: seconds_of(runs, one.name, number) for one in variants if one.name in runs}
    return min(means, key=lambda name: fmean(means[name].values()), default=None)


def tables(section: Section) -> dict[str, str]:
    runs = by_variant([outcome_of(line) for line in section["runs"]])
    number = num_responses(section)
    best = {side: fastest(runs, variants, number) for side, variants in SIDES.items()}
    return {"headline": "\n\n".join((ratios_table(runs, best, number), settings_table(runs, number)))}


def ratios_table(runs: Runs, best: Mapping[str, str | None], number: int) -> str:
    """The fastest of ours against the fastest of each other side."""
    ours = best[OURS]
    rows = []
    for side in OTHERS:
        theirs = best[side]
        if ours is None or theirs is None:
            continue
        found = ratio(seconds_of(runs, theirs, number), seconds_of(runs, ours, number))
        accuracy = accuracy_difference(runs, ours, theirs, number)
        verdict = "" if accuracy is None else "equal" if is_equal(accuracy) else "not shown to be equal"
        rows.append([f"{ours} against {theirs}", shown_ratio(found), str(PROMISED[side]), str(accuracy), verdict])
    head = [
        f"the fastest of each side, {number} responses",
        "times faster, 95 % interval",
        "aim",
        "exact accuracy, difference",
        f"within ±{EQUAL}",
    ]
    return table(head, rows)


def settings_table(runs: Runs, number: int) -> str:
    rows = [
        [
            name,
            str(len(of)),
            spread(list(seconds_of(runs, name, number).values())),
            spread([sum(one.cpu_seconds.values()) for one in of.values()]),
            spread([exact_at_responses(one, number) for one in of.values()], "{:.4f}"),
        ]
        for name, of in runs.items()
    ]
    head = ["setting", "seeds", f"seconds for {number} responses", "CPU seconds of the run", "exact accuracy then"]
    return table(head, rows)


CHAPTER = Chapter(
    name="headline",
    module="benchmarks.studies.headline",
    minutes=110,
    places=("headline",),
    tables=tables,
)


def main(argv: Sequence[str]) -> None:
    made = parser(__doc__)
    made.add_argument("--sweep", action="store_true", help="rates and slots of each side; nothing is kept of it")
    arguments = made.parse_args(argv)
    everyone = [*(one for side in SIDES.values() for one in side), *UNSTEADY]
    variants = swept() if arguments.sweep else QUICK if arguments.quick else everyone
    study = study_of(arguments, variants)
    if arguments.dry_run:
        print(study.announcement())
        return
    outcomes = study.run()
    if arguments.sweep:
        print(settings_table(by_variant(outcomes), study.num_steps * ROWS))
        return
    keep_study(CHAPTER, study, outcomes, is_quick=arguments.quick)


if __name__ == "__main__":
    main(sys.argv[1:])
