"""What a step of PPO, VAPO and PPO-EWMA computes, against each paper's formula; and what every system keeps."""

import io
from typing import Any

import pytest
import torch

from learner.rollouts.rollout import Rollout
from tests.learner import plain_formulas
from tests.learner.builders import a_row
from tests.learner.compared import (
    LAM,
    a_trainer,
    assert_same_weights,
    first_rows,
    masters_of,
    models_of,
    rollout_logprobs_of,
    score_of,
    second_rows,
    values_of,
)
from tests.learner.tiny_models import (
    Gradients,
    TinyTrainer,
    a_network,
    assert_gradients_equal,
    gradients_of,
    padded_logprobs,
    padded_values,
    step,
    weights_of,
)

ALGORITHMS = ("tppo", "ppo", "vapo", "ppo-ewma", "geppo")

# PPO


def test_ppo_fits_the_value_model_to_lambda_returns() -> None:
    rows, network = first_rows(), a_network("value")
    values = values_of(network, rows)
    of_rows = []
    for row, of_row, predicted in zip(rows, values, padded_values(network, rows), strict=True):
        targets = torch.tensor(plain_formulas.lambda_returns(of_row, score_of(row), LAM))
        of_rows.append((predicted - targets).square().mean())
    trainer = a_trainer("ppo")

    step(trainer, rows)

    assert_gradients_equal(trainer.critic.gradients[0], gradients_of(0.5 * torch.stack(of_rows).mean(), network))


def test_ppo_takes_its_advantages_with_the_same_lambda() -> None:
    rows, network = first_rows(), a_network("policy")
    values = values_of(a_network("value"), rows)
    advantages = [plain_formulas.gae(of_row, score_of(row), LAM) for of_row, row in zip(values, rows, strict=True)]
    terms = [
        -torch.tensor(of_row) * logprobs
        for of_row, logprobs in zip(advantages, padded_logprobs(network, rows), strict=True)
    ]
    trainer = a_trainer("ppo")

    step(trainer, rows)

    assert_gradients_equal(trainer.actor.gradients[0], gradients_of(torch.cat(terms).mean(), network))


def test_ppo_clips_as_far_up_as_down() -> None:
    rows = first_rows()
    trainer = a_trainer("ppo", actor={"lr": 3e-2, "ppo_epochs": 2})
    old = [logprobs.detach() for logprobs in padded_logprobs(a_network("policy"), rows)]
    advantages = [
        plain_formulas.gae(of_row, score_of(row), LAM)
        for of_row, row in zip(values_of(a_network("value"), rows), rows, strict=True)
    ]
    moved = first_update_of(a_trainer("ppo", actor={"lr": 3e-2}), rows)
    ratios = [(now - then).exp() for now, then in zip(padded_logprobs(moved, rows), old, strict=True)]
    held = [ratio.clamp(0.8, 1.2) for ratio in ratios]
    assert any(bool((ratio > 1.2).any()) for ratio in ratios), "a ratio must be past the upper clip"

    step(trainer, rows)

    expected = gradients_of(plain_formulas.pessimistic_mean(ratios, held, advantages), moved)
    assert_gradients_equal(trainer.actor.gradients[1], expected, tolerance=1e-5)


def first_update_of(trainer: TinyTrainer, rows: list[Rollout]) -> Any:
    step(trainer, rows)
    return models_of(trainer)[0]


def test_tokens_of_an_earlier_window_continue_the_lambda_returns_of_the_last_one() -> None:
    network = a_network("value")
    (values,) = values_of(network, [a_row([9, 4, 7, 3, 1], score=1.0)])
    row = a_row([9, 4, 7, 3, 1], score=1.0, window_start=2, earlier_values=values[:2])
    targets = torch.tensor(plain_formulas.lambda_returns(values, 1.0, LAM))
    loss = 0.5 * (padded_values(network, [row])[0] - targets).square().mean()
    trainer = a_trainer("ppo")

    step(trainer, [row])

    assert_gradients_equal(trainer.critic.gradients[0], gradients_of(loss, network))


def test_an_empty_last_window_leaves_the_score_to_the_token_before_it() -> None:
    network = a_network("value")
    (values,) = values_of(network, [a_row([9, 4, 7], score=1.0)])
    row = a_row([9, 4, 7], score=1.0, window_start=3, earlier_values=values)
    targets = torch.tensor(plain_formulas.lambda_returns(values, 1.0, LAM))
    loss = 0.5 * (padded_values(network, [row])[0] - targets).square().mean()
    trainer = a_trainer("ppo")

    step(trainer, [row])

    assert_gradients_equal(trainer.critic.gradients[0], gradients_of(loss, network))


# VAPO


def test_tppo_with_whole_responses_and_vapos_numbers_is_vapo_to_the_last_bit() -> None:
    numbers = {"lam": "length_adaptive", "lam_floor": 0.95, "clip_ratio_high": 0.28, "lm_loss_weight": 0.1}
    both: dict[str, Any] = {"actor": {"ppo_mini_batches": 2, "ppo_epochs": 2}, "critic": {"ppo_mini_batches": 2}}
    trainers = [a_trainer("tppo", algorithm=numbers, **both), a_trainer("vapo", **both)]

    for trainer in trainers:
        for version in range(3):
            step(trainer, first_rows(), policy_version=version)

    assert_same_weights(*trainers)


@pytest.mark.parametrize("num_ignored_tail_tokens", [0, 4])
def test_where_nothing_is_cut_neither_boundary_nor_tail_nor_window_matter(num_ignored_tail_tokens: int) -> None:
    settings = {"num_ignored_tail_tokens": num_ignored_tail_tokens, "boundary": "bootstrap"}
    trainers = [a_trainer("tppo"), a_trainer("tppo", run={"window_length": 6}, algorithm=settings)]

    for trainer in trainers:
        step(trainer, first_rows())

    assert_same_weights(*trainers)


# PPO-EWMA


def test_ppo_ewma_clips_around_the_average_of_the_weights() -> None:
    trainer = a_trainer("ppo-ewma", algorithm={"ewma_center_of_mass": 1.0}, actor={"lr": 3e-2})
    step(trainer, first_rows())
    policy, value_network = models_of(trainer)
    rows = second_rows(a_network("policy"))  # so that the ratio to who sampled is not one
    expected, num_clipped = ewma_gradients(policy, value_network, rows)

    metrics = step(trainer, rows, policy_version=1)

    assert metrics["actor/pg_clipfrac"] > 0, "the clip must decide somewhere"
    assert num_clipped > 0
    assert_gradients_equal(trainer.actor.gradients[1], expected, tolerance=1e-5)


def ewma_gradients(
    policy: Any, value_network: Any, rows: list[Rollout], *, temperature: float = 1.0
) -> tuple[Gradients, int]:
    """Those of the second update at decay 1/2, by the paper's formula; and how many tokens the clip would hold."""
    # Decay 1/2: after one update the first weights weigh 1/2 and the second ones 1.
    average = a_network("policy")
    for name, tensor in average.state_dict().items():
        tensor.mul_(0.5 / 1.5).add_(policy.state_dict()[name], alpha=1 / 1.5)
    now, sampled = padded_logprobs(policy, rows, temperature=temperature), rollout_logprobs_of(rows)
    proximal = [logprobs.detach() for logprobs in padded_logprobs(average, rows, temperature=temperature)]
    bounds = torch.tensor([0.8, 1.2]).log()
    ratios = [(mine - theirs).exp() for mine, theirs in zip(now, sampled, strict=True)]
    held = [
        ((mine - centre).clamp(*bounds) + centre - theirs).exp()
        for mine, centre, theirs in zip(now, proximal, sampled, strict=True)
    ]
    advantages = [
        plain_formulas.gae(of_row, score_of(row), LAM)
        for of_row, row in zip(values_of(value_network, rows), rows, strict=True)
    ]
    loss = plain_formulas.pessimistic_mean(ratios, held, advantages)
    num_clipped = sum(int((ratio != clipped).sum()) for ratio, clipped in zip(ratios, held, strict=True))
    return gradients_of(loss, policy), num_clipped


def test_the_average_has_the_configured_centre_of_mass() -> None:
    trainer = a_trainer("ppo-ewma", algorithm={"ewma_center_of_mass": 3.0}, actor={"lr": 3e-2})
    first = weights_of(trainer.policy.network)

    step(trainer, first_rows())

    second = weights_of(trainer.policy.network)
    state = trainer.system.state_dict()
    assert state["total_weight"] == 1.75
    for name, average in state["averages"].items():  # decay 3/4: the first weights weigh 3/4, the second ones 1
        torch.testing.assert_close(average, (0.75 * first[name] + second[name]) / 1.75)


def test_an_update_that_was_refused_does_not_move_the_average() -> None:
    trainer = a_trainer("ppo-ewma")

    step(trainer, [a_row([9, 4, 7, 1], score=float("nan"))])

    assert trainer.system.state_dict()["total_weight"] == 1.0


def test_ppo_ewma_caps_the_ratio_to_the_policy_that_sampled_at_the_configured_number() -> None:
    rows = first_rows()
    for row in rows:
        row.rollout_logprobs = type(row.rollout_logprobs)("f", [logprob - 3.0 for logprob in row.rollout_logprobs])

    metrics = step(a_trainer("ppo-ewma", algorithm={"importance_cap": 4.0}), rows)

    assert metrics["actor/importance_weight_mean"] == pytest.approx(4.0)  # and not e^3


# What they share


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_gradient_does_not_depend_on_the_micro_batches(algorithm: str) -> None:
    in_one, in_two = (a_trainer(algorithm, actor={"max_tokens_per_microbatch": tokens}) for tokens in (4096, 6))

    for trainer in (in_one, in_two):
        step(trainer, first_rows())

    assert_gradients_equal(in_two.actor.gradients[0], in_one.actor.gradients[0])


@pytest.mark.parametrize("num_mini_batches", [1, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_policy_that_has_not_moved_stands_at_its_reference_at_any_temperature(
    algorithm: str, num_mini_batches: int
) -> None:
    actor = {"ppo_mini_batches": num_mini_batches, "lr": 1e-12}
    trainer = a_trainer(algorithm, generation={"temperature": 0.5}, actor=actor)

    metrics = step(trainer, first_rows())

    assert metrics["actor/ppo_kl"] == pytest.approx(0.0, abs=1e-6)


# Another temperature in a run


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_a_change_of_temperature_a_step_works_with_the_new_log_probabilities(algorithm: str) -> None:
    trainer = a_trainer(algorithm, trace={"enabled": True}, actor={"lr": 1e-2})
    step(trainer, first_rows())
    policy, _ = models_of(trainer)
    rows = second_rows(policy)

    trainer.set_temperature(0.5)
    trace = trainer.step(rows, policy_version=1).trace

    assert trace is not None
    expected = torch.cat(padded_logprobs(policy, rows, temperature=0.5)).tolist()
    assert trace["old_logprob"].to_pylist() == pytest.approx(expected, abs=1e-5)
    assert trainer.actor.num_updates == 2
    assert not torch.equal(policy.lm_head.weight, trainer.policy.network.lm_head.weight)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_policy_and_what_it_is_compared_with_change_their_temperature_together(algorithm: str) -> None:
    trainer = a_trainer(algorithm, actor={"lr": 1e-12, "ppo_mini_batches": 2})
    step(trainer, first_rows())

    trainer.set_temperature(0.5)
    metrics = step(trainer, second_rows(a_network("policy")), policy_version=1)

    assert metrics["actor/ppo_kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics.get("actor/total_variation", 0.0) == pytest.approx(0.0, abs=1e-5)


def test_ppo_ewma_clips_around_the_average_at_the_temperature_that_the_policy_has_now() -> None:
    trainer = a_trainer("ppo-ewma", algorithm={"ewma_center_of_mass": 1.0}, actor={"lr": 3e-2})
    step(trainer, first_rows())
    policy, value_network = models_of(trainer)
    rows = second_rows(a_network("policy"))
    expected, num_clipped = ewma_gradients(policy, value_network, rows, temperature=0.5)

    trainer.set_temperature(0.5)
    step(trainer, rows, policy_version=1)

    assert num_clipped > 0, "the clip must decide somewhere"
    assert_gradients_equal(trainer.actor.gradients[1], expected, tolerance=1e-5)


# What they keep


@pytest.mark.parametrize(
    ("algorithm", "compute_dtype"),
    [*((algorithm, "float32") for algorithm in ALGORITHMS), ("tppo", "bfloat16"), ("ppo-ewma", "bfloat16")],
)
def test_a_restored_trainer_takes_the_very_steps_of_the_one_that_went_on(algorithm: str, compute_dtype: str) -> None:
    options: dict[str, Any] = {
        "algorithm": {"num_reused_batches": 3},
        "actor": {"lr": 1e-2, "ppo_mini_batches": 2},
        "learner": {"compute_dtype": compute_dtype},
    }
    undisturbed, restored = (a_trainer(algorithm, **options) for _ in range(2))
    for version in range(2):
        step(undisturbed, second_rows(a_network("policy"), version), policy_version=version)

    file = io.BytesIO()
    torch.save(undisturbed.state_dict(), file)
    for mine, theirs in masters_of(restored, undisturbed):
        with torch.no_grad():
            for name, master in mine.masters.items():
                master.copy_(theirs.masters[name])
        mine.cast()
    restored.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for trainer in (undisturbed, restored):
        for version in range(2, 4):
            step(trainer, second_rows(a_network("policy"), version), policy_version=version)

    assert_same_weights(undisturbed, restored)
