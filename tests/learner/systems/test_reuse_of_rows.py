"""What a step of GePPO computes on its own rows and on those that it kept, against the paper's formulas."""

import math
from typing import Any

import pytest
import torch

from learner.rollouts.rollout import Rollout
from tests.learner import plain_formulas
from tests.learner.builders import a_row
from tests.learner.compared import (
    LAM,
    a_trainer,
    first_rows,
    models_of,
    rollout_logprobs_of,
    score_of,
    second_rows,
    values_of,
)
from tests.learner.tiny_models import (
    TinyTrainer,
    a_network,
    assert_gradients_equal,
    gradients_of,
    padded_logprobs,
    padded_values,
    step,
)


def reuse_step(lr: float) -> tuple[TinyTrainer, Any, Any, list[Rollout], dict[str, Any]]:
    """A trainer after two steps; the two models as they were before the second one; its rows; its numbers."""
    trainer = a_trainer("geppo", algorithm={"num_reused_batches": 2}, actor={"lr": lr})
    step(trainer, first_rows())
    policy, value_network = models_of(trainer)
    arriving = second_rows(policy)
    metrics = step(trainer, arriving, policy_version=1)
    return trainer, policy, value_network, [*arriving, *first_rows()], metrics


def test_geppo_trains_on_both_batches_with_corrected_advantages_and_the_clip_around_the_present_policy() -> None:
    trainer, policy, value_network, rows, metrics = reuse_step(lr=3e-2)
    now, sampled = padded_logprobs(policy, rows), rollout_logprobs_of(rows)
    centres = [(mine.detach() - theirs).exp() for mine, theirs in zip(now, sampled, strict=True)]
    ratios = [(mine - theirs).exp() for mine, theirs in zip(now, sampled, strict=True)]
    # Six tokens of age 0 and six of age 1: a token is used 1.5 times on average.
    clip_range = 0.2 / 1.5
    held = [
        ratio.clamp(centre - clip_range, centre + clip_range) for ratio, centre in zip(ratios, centres, strict=True)
    ]
    advantages = [
        plain_formulas.vtrace(of_row, score_of(row), LAM, centre.clamp(max=1.0).tolist())
        for of_row, row, centre in zip(values_of(value_network, rows), rows, centres, strict=True)
    ]

    expected = gradients_of(plain_formulas.pessimistic_mean(ratios, held, advantages), policy)
    assert metrics["actor/clip_range"] == pytest.approx(clip_range)
    assert_gradients_equal(trainer.actor.gradients[1], expected, tolerance=1e-5)


def test_geppo_fits_the_value_model_to_the_values_and_the_weighted_corrected_advantages() -> None:
    trainer, policy, value_network, rows, _ = reuse_step(lr=3e-2)
    centres = [
        (mine.detach() - theirs).exp()
        for mine, theirs in zip(padded_logprobs(policy, rows), rollout_logprobs_of(rows), strict=True)
    ]
    of_rows = []
    for row, of_row, centre, predicted in zip(
        rows, values_of(value_network, rows), centres, padded_values(value_network, rows), strict=True
    ):
        weights = centre.clamp(max=1.0)
        corrected = plain_formulas.vtrace(of_row, score_of(row), LAM, weights.tolist())
        of_rows.append((predicted - weights * torch.tensor(corrected) - torch.tensor(of_row)).square().mean())

    expected = gradients_of(0.5 * torch.stack(of_rows).mean(), value_network)
    assert_gradients_equal(trainer.critic.gradients[1], expected, tolerance=1e-5)


def test_geppos_value_target_takes_half_the_advantage_of_a_token_that_has_become_half_as_likely() -> None:
    row = a_row([9], score=1.0)
    (value,) = values_of(a_network("value"), [row])[0]
    (now,) = padded_logprobs(a_network("policy"), [row])[0].tolist()
    row.rollout_logprobs = type(row.rollout_logprobs)("f", [now + math.log(2.0)])
    trainer = a_trainer("geppo")

    metrics = step(trainer, [row])

    # A = 1 - V, the target is V + 1/2 (1 - V), and the loss 1/2 (V - target)^2.
    assert metrics["critic/vf_loss"] == pytest.approx(0.5 * (0.5 * (1.0 - value)) ** 2, rel=1e-4)


def test_geppo_measures_by_how_much_a_step_has_moved_the_policy() -> None:
    trainer, policy, _, rows, metrics = reuse_step(lr=3e-2)
    distances = [
        ((after - theirs).exp() - (before - theirs).exp()).abs()
        for after, before, theirs in zip(
            padded_logprobs(models_of(trainer)[0], rows),
            padded_logprobs(policy, rows),
            rollout_logprobs_of(rows),
            strict=True,
        )
    ]

    assert metrics["actor/total_variation"] == pytest.approx(float(torch.cat(distances).mean().detach()) / 2, rel=1e-4)


@pytest.mark.parametrize(("lr", "scale"), [(1e-6, 1.0), (3e-2, 1.03**-2)])
def test_geppo_lowers_the_rate_after_large_steps_alone(lr: float, scale: float) -> None:
    trainer, *_, metrics = reuse_step(lr)

    assert metrics["actor/lr_scale"] == pytest.approx(scale)
    step(trainer, second_rows(models_of(trainer)[0], version=2), policy_version=2)
    assert trainer.actor.adamw.param_groups[0]["lr"] == pytest.approx(lr * scale)


def test_geppo_drops_rows_after_the_configured_number_of_steps() -> None:
    trainer = a_trainer("geppo", algorithm={"num_reused_batches": 2})

    counts = [
        step(trainer, second_rows(a_network("policy"), version), policy_version=version)["tokens/policy_mask"]
        for version in range(4)
    ]

    assert counts == [6, 12, 12, 12]


def test_geppo_returns_values_for_the_rows_that_arrived_and_for_no_other() -> None:
    trainer = a_trainer("geppo")
    trainer.step(first_rows(), policy_version=0)

    values = trainer.step(second_rows(a_network("policy")), policy_version=1).values

    assert [len(of_row) for of_row in values] == [3, 3]


def test_a_step_of_empty_responses_moves_nothing_and_is_followed_by_a_usual_one() -> None:
    trainer = a_trainer("geppo")

    empty = step(trainer, [a_row([], score=0.0), a_row([], score=0.0)])
    usual = step(trainer, second_rows(a_network("policy")), policy_version=1)

    assert (empty["tokens/policy_mask"], empty["actor/clip_range"], trainer.actor.num_updates) == (0, 0.2, 1)
    assert usual["actor/clip_range"] == pytest.approx(0.2)  # six tokens of age 0, each used once
