"""What a step takes beyond its models: the activations of one micro-batch, and a few numbers for each token."""

from typing import Any

import pytest

from learner.rollouts.rollout import Rollout
from tests.learner.builders import a_row
from tests.learner.models.live_bytes import LiveBytes
from tests.learner.tiny_models import WINDOW_LENGTH, TinyTrainer, a_step_config, step

ROWS_PER_MICRO_BATCH = 8
TOKENS_OF_A_ROW = 3 + WINDOW_LENGTH
BYTES_PER_TOKEN = 400
"""Of a step, on the host: ids, masks, log-probabilities, values, and the trace of a token in the step's numbers."""


def some_rows(number: int) -> list[Rollout]:
    return [a_row([9, 4, 7, 3, index % 30, 1], score=float(index % 2)) for index in range(number)]


def peak_of_a_step(num_rows: int, *, max_tokens: int) -> int:
    sizes: dict[str, Any] = {"max_tokens_per_microbatch": max_tokens}
    trainer = TinyTrainer(a_step_config(actor=sizes, critic=sizes))
    step(trainer, some_rows(2))  # the optimizers have their moments
    trainer.actor.gradients.clear()
    trainer.critic.gradients.clear()
    live = LiveBytes()
    with live:
        step(trainer, some_rows(num_rows))
    return live.peak


def test_the_peak_of_a_step_hardly_grows_with_its_rows() -> None:
    max_tokens = ROWS_PER_MICRO_BATCH * TOKENS_OF_A_ROW
    few, many = (peak_of_a_step(number, max_tokens=max_tokens) for number in (8, 64))

    assert many - few <= (64 - 8) * TOKENS_OF_A_ROW * BYTES_PER_TOKEN


def test_the_peak_of_a_step_grows_with_its_micro_batch() -> None:
    small, large = (peak_of_a_step(64, max_tokens=rows * TOKENS_OF_A_ROW) for rows in (8, 64))

    assert large > 3 * small


@pytest.mark.parametrize(("frequency", "steps"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (0, [])])
def test_the_entropy_is_measured_in_the_steps_that_its_frequency_divides(frequency: int, steps: list[int]) -> None:
    trainer = TinyTrainer(a_step_config(actor={"entropy_freq": frequency}))

    measured = [step(trainer, some_rows(2), policy_version=version).get("actor/entropy") for version in range(4)]

    assert [number + 1 for number, entropy in enumerate(measured) if entropy is not None] == steps
