"""A step of a policy and a value model in processes of their own, which talk over gloo, is that of one process."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch

from learner.parallel.group import Group
from learner.parallel.roles import Roles
from tests.learner.parallel.step_cases import STEPS, apart, stepped, stepped_alone
from tests.support.ranks import in_group

pytestmark = pytest.mark.process
ONE_OF_EACH = [
    "tppo",
    "ppo, head in chunks",
    "vapo, checkpointed",
    "geppo, row by row",
    "ppo-ewma, selectively checkpointed",
    "tppo in bfloat16",
    "adapters, checkpointed",
]
TWO_OF_EACH = ["tppo", "geppo, row by row", "ppo-ewma with adapters in bfloat16"]
NUM_UPDATES = {"actor": 4, "critic": 1}  # of a step


class Found(NamedTuple):
    """By a rank, of one case."""

    folder: str  # of the model that it has
    results: list[dict[str, Any]]
    expected: list[dict[str, Any]]
    gradients_apart: list[float]  # of each update, from those of one process that has both models


def compared(everyone: Group, names: Sequence[str]) -> dict[str, Found]:
    roles = Roles.apart(everyone.size // 2, torch.device("cpu"))
    return {name: _compared(name, roles) for name in names}


def _compared(name: str, roles: Roles) -> Found:
    mine, alone = stepped(name, roles), stepped_alone(name)
    ((folder, gradients),) = mine.of_models.items()
    differences = [apart(one, other) for one, other in zip(gradients, alone.of_models[folder], strict=True)]
    return Found(folder, mine.results, alone.results, differences)


@pytest.fixture(scope="module")
def of_two() -> list[dict[str, Found]]:
    return in_group(2, compared, ONE_OF_EACH)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_process_for_each_model_gives_the_bits_of_one_that_has_both(
    of_two: list[dict[str, Found]], name: str
) -> None:
    policy, value_model = (found[name] for found in of_two)

    assert (policy.folder, value_model.folder) == ("actor", "critic")
    assert policy.results == value_model.results == policy.expected
    for found in (policy, value_model):
        assert found.gradients_apart == [0.0] * NUM_UPDATES[found.folder] * STEPS[name].num_steps


@pytest.mark.slow
def test_two_processes_for_each_model_give_the_gradients_of_one_that_has_both() -> None:
    of_four = in_group(4, compared, TWO_OF_EACH)

    assert [found["tppo"].folder for found in of_four] == ["actor", "actor", "critic", "critic"]
    for name in TWO_OF_EACH:
        tolerance = 1e-5 if STEPS[name].dtype == "float32" else 2e-2
        assert all(found[name].results == of_four[0][name].results for found in of_four)
        assert max(one for found in of_four for one in found[name].gradients_apart) < tolerance
