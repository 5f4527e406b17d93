"""A step on two and on four processes, which talk over gloo, is that of one.

The mini-batches of two rows leave two of four ranks without any, and so do the two finished rows the value model's.
"""

from typing import Any

import pytest

from tests.learner.parallel.rank_processes import found_by
from tests.learner.parallel.step_cases import STEPS

pytestmark = [pytest.mark.process, pytest.mark.slow]
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}  # of a gradient's norm; bfloat16 has eight significant bits


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    return found_by("tests.learner.parallel.step_cases", (2, 4), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_gradients_of_sharded_networks_are_those_of_whole_ones(
    found: dict[int, dict[str, Any]], num_ranks: int, name: str
) -> None:
    differences = found[num_ranks][name]["apart"]

    assert len(differences) == 5 * STEPS[name].num_steps, "four of the policy's updates and one of the value model's"
    assert max(differences) < TOLERANCES[STEPS[name].dtype]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_metrics_and_values_of_a_step_are_those_of_one_process(
    found: dict[int, dict[str, Any]], num_ranks: int, name: str
) -> None:
    case, tolerance = found[num_ranks][name], 1e-4 if STEPS[name].dtype == "float32" else 2e-2

    for result, expected in zip(case["results"], case["expected"], strict=True):
        mine, theirs = result["metrics"], expected["metrics"]
        assert {name for name, value in mine.items() if value is None} == {n for n, v in theirs.items() if v is None}
        for metric, value in theirs.items():
            is_share = metric.endswith("weights_changed_fraction")  # of some weights the change is rounding itself
            absolute = 1e-3 if is_share else 1e-2 * tolerance
            assert value is None or mine[metric] == pytest.approx(value, rel=tolerance, abs=absolute), metric
        for of_row, expected_row in zip(result["values"], expected["values"], strict=True):
            assert of_row == pytest.approx(expected_row, rel=tolerance, abs=1e-2 * tolerance)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_all_ranks_find_the_same_bits(found: dict[int, dict[str, Any]], num_ranks: int) -> None:
    assert all(case["is_same"] for case in found[num_ranks].values())
