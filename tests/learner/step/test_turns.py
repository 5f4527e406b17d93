"""Two models on a device that holds one of them: the same step, with a pretended device that counts what it holds."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.step.turns import Device, let_take_turns
from tests.learner.tiny_models import TinyTrainer, a_step_config, some_rows, step, weights_of


class PretendedDevice:
    """Memory that is the host's, but for the count of the bytes that were fetched and not sent home."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.device = Device(self._fetch, torch.clone)

    def _fetch(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        size = copy.untyped_storage().nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(copy.untyped_storage(), self._freed, size)
        return copy

    def _freed(self, size: int) -> None:
        self.now -= size


def a_trainer(**sections: dict[str, Any]) -> TinyTrainer:
    sizes: dict[str, Any] = {"ppo_mini_batches": 2}
    return TinyTrainer(a_step_config(**{"actor": sizes, "critic": sizes} | sections))


def with_turns(trainer: TinyTrainer) -> PretendedDevice:
    pretended = PretendedDevice()
    let_take_turns(trainer.policy, trainer.actor, trainer.value_model, trainer.critic, device=pretended.device)
    return pretended


def bytes_of(trainer: TinyTrainer, name: str) -> int:
    """Weights in their types, and two moments in float32."""
    model = getattr(trainer, name)
    parameters = {id(one): one for one in (*model.network.parameters(), *model.weights.parameters())}.values()
    total: int = sum(one.nbytes for one in parameters) + 8 * sum(one.numel() for one in model.weights.parameters())
    return total


@pytest.mark.parametrize("sections", [{}, {"learner": {"compute_dtype": "bfloat16"}}], ids=["float32", "bfloat16"])
def test_taking_turns_changes_no_number(sections: dict[str, dict[str, Any]]) -> None:
    plain, taking_turns = a_trainer(**sections), a_trainer(**sections)
    with_turns(taking_turns)
    plain.value_model.take_turn = lambda: None  # so that it predicts in the same passes

    for version in range(2):
        expected, actual = (step(one, some_rows(), policy_version=version) for one in (plain, taking_turns))

    assert {key: value for key, value in actual.items() if "timing" not in key} == {
        key: value for key, value in expected.items() if "timing" not in key
    }
    for name in ("policy", "value_model"):
        ours, theirs = (weights_of(getattr(one, name).network) for one in (taking_turns, plain))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_device_holds_one_model_and_its_moments_at_a_time() -> None:
    trainer = a_trainer()
    pretended = with_turns(trainer)

    for version in range(3):
        step(trainer, some_rows(), policy_version=version)

    largest = max(bytes_of(trainer, name) for name in ("policy", "value_model"))
    assert largest / 3 < pretended.peak <= largest + 1024  # the optimizers' counts of steps besides
