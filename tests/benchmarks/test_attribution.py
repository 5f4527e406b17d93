"""The studies' tables, from runs that nobody ran: three seeds of three steps of 32 rows."""

from dataclasses import asdict

import pytest

from benchmarks.results import Section
from benchmarks.studies import attribution, headline
from benchmarks.studies.attribution import accuracy_difference, by_variant, findings, is_equal, ratio, shown_ratio
from benchmarks.studies.timed_runs import COMMON, QUICKSTART, Variant
from services.local.compare.paired import Difference
from tests.benchmarks.outcomes import an_outcome
from tppo.config import load


def a_section(seconds: dict[str, float]) -> Section:
    """The seconds of each variant with the first seed; each further seed takes a second more."""
    outcomes = [
        an_outcome(variant=variant, seed=101 + number, clock=(1.0, 2.0, end + number))
        for variant, end in seconds.items()
        for number in range(3)
    ]
    return {"steps": 3, "runs": [asdict(outcome) for outcome in outcomes]}


SECONDS = {
    "PPO lockstep": 12.0,
    "PPO overlapped": 9.0,
    "PPO streaming": 5.0,
    "T-PPO lockstep": 10.0,
    "T-PPO overlapped": 8.0,
    "T-PPO streaming": 6.0,
}


def test_the_gain_is_taken_apart_into_overlap_windows_and_refill() -> None:
    table = attribution.tables(a_section(SECONDS))["decomposition"]

    # the third roots of 12/9 * 13/10 * 14/11, of 12/6 * 13/7 * 14/8 and of 5/6 * 6/7 * 7/8
    assert "| overlap | PPO lockstep | PPO overlapped | 1.30 (" in table
    assert "| all of it | PPO lockstep | T-PPO streaming | 1.87 (" in table
    assert "| +0.0000 ± 0.0000 (equal) |" in table
    assert "Windows, where slots are refilled at once (T-PPO streaming against PPO streaming): is slower, 0.85" in table


def test_what_shows_no_difference_is_named_as_such() -> None:
    same = by_variant([an_outcome(variant=name, seed=seed) for name in SECONDS for seed in (101, 102)])

    assert all("shows no difference in speed, 1.00" in line for line in findings(same, 96))


def test_every_table_has_a_row_for_each_variant() -> None:
    found = attribution.tables(a_section(SECONDS))

    assert sorted(found) == sorted(attribution.CHAPTER.places)
    for name in SECONDS:
        assert f"| {name} | 3 |" in found["attribution"]
        assert f"| {name} |" in found["attribution-cpu"]
    assert "| token lag, mean | 1.00 ± 0.00 | 1.00 ± 0.00 |" in found["streaming"]


def test_accuracies_are_equal_when_the_whole_interval_lies_within_a_hundredth() -> None:
    assert is_equal(Difference(0.004, 0.005, 0.2))
    assert not is_equal(Difference(0.004, 0.007, 0.2))


def test_a_ratio_is_the_mean_of_logarithms_of_pairs() -> None:
    found = ratio({1: 8.0, 2: 2.0}, {1: 2.0, 2: 2.0})  # 4 and 1: their geometric mean is 2

    assert shown_ratio(found).startswith("2.00 (")
    assert ratio({1: 8.0}, {1: 2.0}) is None


def test_the_headline_compares_the_fastest_of_each_side() -> None:
    names = {
        "PPO lockstep": 12.0,
        "PPO lockstep, two generators": 10.0,
        "PPO overlapped": 9.0,
        "T-PPO streaming": 5.0,
        "T-PPO streaming, windows of 512": 4.0,
    }

    table = headline.tables(a_section(names))["headline"]

    # the third roots of 10/4 * 11/5 * 12/6 and of 9/4 * 10/5 * 11/6
    assert "| T-PPO streaming, windows of 512 against PPO lockstep, two generators | 2.22 (" in table
    assert "| T-PPO streaming, windows of 512 against PPO overlapped | 2.02 (" in table
    assert "| +0.0000 ± 0.0000 | equal |" in table


def test_a_difference_needs_two_seeds_of_both() -> None:
    runs = by_variant([an_outcome(variant="a"), an_outcome(variant="b"), an_outcome(variant="b", seed=102)])

    assert accuracy_difference(runs, "a", "b", 96) is None


EVERYONE = {one.name: one for one in (*attribution.VARIANTS, *(one for of in headline.SIDES.values() for one in of))}


@pytest.mark.parametrize("variant", [*EVERYONE.values(), *headline.swept()], ids=lambda variant: variant.name)
def test_every_variant_is_a_run_that_starts(variant: Variant) -> None:
    config = load(QUICKSTART, [*COMMON, *variant.overrides])

    is_windowed = variant.name.startswith("T-PPO")
    assert config.run.algorithm == ("tppo" if is_windowed else "ppo")
    assert config.run.mode == variant.name.partition(",")[0].split()[-1]
    windows = int(variant.name.partition("windows of ")[2].partition(" ")[0] or 256)
    assert config.run.window_length == (windows if is_windowed else config.run.max_response_length)
    assert config.actor.ppo_mini_batches == 4


def test_both_sides_have_the_same_cores_and_slots() -> None:
    slots = {
        one.name: config.generation.replicas * config.generation.num_slots
        for one in headline.SYNCHRONOUS
        for config in [load(QUICKSTART, one.overrides)]
    }

    assert set(slots.values()) == {32}
