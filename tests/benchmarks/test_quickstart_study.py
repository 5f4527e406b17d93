"""The study's bookkeeping: what is missing, what a row needs, and what its table says. No run is started."""

from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.studies.quickstart import (
    BASE,
    VARIANTS,
    Outcome,
    announcement,
    missing_runs,
    outcome_of,
    write,
)


def an_outcome(variant: str, seed: int, *, exact: float = 0.95) -> Outcome:
    return Outcome(
        variant=variant,
        seed=seed,
        steps=120,
        overrides=VARIANTS[variant],
        seconds=60.0,
        exact_after_40=0.9,
        exact_at_end=exact,
        lowest_exact=0.9,
        exact_longest=exact / 2,
        response_length=80.0,
        clip_fraction=0.01,
        token_lag=None,
        bias_at_cut=0.01,
        explained_variance_cut=0.4,
    )


def test_a_run_with_its_line_is_not_repeated_and_one_with_other_settings_is() -> None:
    variants = {BASE: (), "K = 0": VARIANTS["K = 0"]}
    done = [an_outcome(BASE, 1), an_outcome("K = 0", 2), replace(an_outcome("K = 0", 1), overrides=("other",))]

    assert list(missing_runs(done, variants, num_seeds=2, num_steps=120)) == [("K = 0", 1), (BASE, 2)]
    assert len(list(missing_runs(done, variants, num_seeds=2, num_steps=400))) == 4


def test_the_time_of_the_missing_runs_is_said_before_they_start() -> None:
    done = [an_outcome(BASE, 1)]

    assert announcement(done, 4, num_steps=240).startswith("4 runs of 240 steps, about 8 minutes")
    assert announcement(done, 0, num_steps=240) == "Every run has its line."


def test_a_line_is_read_as_it_was_written() -> None:
    outcome = an_outcome("K = 0", 3)

    assert outcome_of(asdict(outcome) | {"overrides": list(outcome.overrides)}) == outcome


def test_a_row_of_fewer_than_five_seeds_is_named_but_not_shown(tmp_path: Path) -> None:
    outcomes = [an_outcome(BASE, seed, exact=0.95 + seed / 1000) for seed in range(1, 6)]
    outcomes += [an_outcome("K = 0", seed, exact=0.96 + seed / 1000) for seed in range(1, 6)]
    outcomes += [an_outcome("lambda 1", seed) for seed in range(1, 5)]

    write(outcomes, tmp_path, num_steps=120)

    document = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| K = 0 | +0.0100 ± 0.0000 | 0.00 |" in document
    assert "| lambda 1 |" not in document
    assert "lambda 1" in document.partition("not shown: ")[2]
