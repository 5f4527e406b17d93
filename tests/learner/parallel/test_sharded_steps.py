"""A step on two and on four processes, which talk over gloo, is that of one, however they divide passes and weights.

The mini-batches of two rows leave two of four ranks without any, and so do the two finished rows the value model's.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

from learner.parallel.group import Group
from tests.learner.parallel.attention_cases import (
    ATTENTIONS,
    divided_attention,
    kept_activations,
    shape_of_kept_activations,
)
from tests.learner.parallel.family_cases import DIVIDED, REFUSED_WHEN_TRIED, divided_families
from tests.learner.parallel.step_cases import LAYOUTS, STEPS, divided_steps
from tests.support.ranks import in_group
from tppo.models.memory_estimate import Training, activation_bytes

pytestmark = [pytest.mark.process, pytest.mark.slow]
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}  # of a gradient's norm; bfloat16 has eight significant bits
CASES = [(layout, name) for layout, known in LAYOUTS.items() for name in known.cases]

FoundBy = Callable[[int], dict[str, Any]]


@pytest.fixture(scope="module")
def found_by() -> FoundBy:
    """What rank 0 of so many finds; each group is started once."""
    return cache(lambda size: in_group(size, all_cases)[0])


def all_cases(group: Group) -> dict[str, Any]:
    found = {"steps": divided_steps(group), "attention": divided_attention(group), "kept": kept_activations(group)}
    return found | ({"families": divided_families(group)} if group.size == 2 else {})


def case_of(found_by: FoundBy, layout: str, name: str) -> dict[str, Any]:
    case: dict[str, Any] = found_by(LAYOUTS[layout].size)["steps"][layout][name]
    return case


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_gradients_of_sharded_networks_are_those_of_whole_ones(found_by: FoundBy, layout: str, name: str) -> None:
    differences = case_of(found_by, layout, name)["apart"]

    assert len(differences) == STEPS[name].num_updates
    assert max(differences) < TOLERANCES[STEPS[name].dtype]


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_metrics_values_and_log_probabilities_of_a_step_are_those_of_one_process(
    found_by: FoundBy, layout: str, name: str
) -> None:
    case, tolerance = case_of(found_by, layout, name), 1e-4 if STEPS[name].dtype == "float32" else 2e-2

    if STEPS[name].dtype == "bfloat16" and LAYOUTS[layout].sequence_size > 1:
        largest = max(abs(number) for of_row in case["expected_logprobs"] for number in of_row)
        # A log-probability is a difference of logits: rounded otherwise, each is off by the size of those, not its own.
        two_units_in_the_last_place = 2 * 2**-7 * largest
        assert_rows_equal(case["logprobs"], case["expected_logprobs"], 0.0, two_units_in_the_last_place)
    else:
        assert_rows_equal(case["logprobs"], case["expected_logprobs"], tolerance, 1e-2 * tolerance)
    for result, expected in zip(case["results"], case["expected"], strict=True):
        mine, theirs = result["metrics"], expected["metrics"]
        assert {name for name, value in mine.items() if value is None} == {n for n, v in theirs.items() if v is None}
        for metric, value in theirs.items():
            is_share = metric.endswith("weights_changed_fraction")  # of some weights the change is rounding itself
            absolute = 1e-3 if is_share else 1e-2 * tolerance
            assert value is None or mine[metric] == pytest.approx(value, rel=tolerance, abs=absolute), metric
        assert_rows_equal(result["values"], expected["values"], tolerance, 1e-2 * tolerance)


def assert_rows_equal(rows: Sequence[Any], expected: Sequence[Any], relative: float, absolute: float) -> None:
    for of_row, expected_row in zip(rows, expected, strict=True):
        assert of_row == pytest.approx(expected_row, rel=relative, abs=absolute)


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_all_ranks_find_the_same_bits(found_by: FoundBy, layout: str, name: str) -> None:
    assert case_of(found_by, layout, name)["is_same"]


@pytest.mark.parametrize("layout", [name for name, known in LAYOUTS.items() if "adapters on one body" in known.cases])
def test_shards_of_a_body_in_common_are_in_memory_once(found_by: FoundBy, layout: str) -> None:
    of_steps = found_by(LAYOUTS[layout].size)["steps"][layout]

    assert of_steps["adapters on one body"]["body_in_common"] == 1.0
    assert of_steps["tppo"]["body_in_common"] == 0.0


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_by_heads_of_each_rank_is_that_of_all_heads(found_by: FoundBy, num_ranks: int, name: str) -> None:
    """Its gradients, too: of queries, keys and values, and of attention sinks."""
    assert found_by(num_ranks)["attention"][name] < 1e-5


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_rank_keeps_its_tokens_activations_and_the_estimate_knows_how_many(found_by: FoundBy, num_ranks: int) -> None:
    alone, own = found_by(num_ranks)["kept"]
    whole, part = (
        activation_bytes(
            shape_of_kept_activations(), Training(4, 128, "off", num_processes=num_ranks, sequence_size=size)
        )
        for size in (1, num_ranks)
    )

    assert own / alone == pytest.approx(part / whole, rel=0.1)


def test_families_that_preflight_lets_pass_say_the_same_by_two_ranks_or_are_refused(found_by: FoundBy) -> None:
    found = found_by(2)["families"]

    assert found.keys() == {*DIVIDED, *REFUSED_WHEN_TRIED}
    assert {name for name, nats in found.items() if nats is None} == {*REFUSED_WHEN_TRIED}
    assert {name: nats for name, nats in found.items() if nats is not None and nats > 2e-4} == {}
