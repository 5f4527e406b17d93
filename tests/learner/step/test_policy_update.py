"""The gradient that a step gives the policy, against a plain computation on padded rows."""

import math
import statistics
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.models.passes.packing import TokenRow, pack
from learner.rollouts.rollout import Rollout
from learner.step.system import PolicyTokens
from learner.step.updates import selection
from learner.step.updates.optimization import mini_batches
from tests.learner.builders import a_row
from tests.learner.tiny_models import (
    Gradients,
    TinyTrainer,
    a_network,
    a_step_config,
    assert_gradients_equal,
    gradients_of,
    padded_logprobs,
    padded_values,
    some_rows,
    step,
    weights_of,
)

LAM = 0.95  # the floor of the length-adaptive lambda, which binds for so short responses


def window_advantages(rows: Sequence[Rollout], *, lambdas: Sequence[float] | None = None) -> list[list[float]]:
    """EGAE by hand: the window's values and score, backwards; a cut holds its last value."""
    found = []
    of_rows = padded_values(a_network("value"), rows)
    for row, values, lam in zip(rows, of_rows, lambdas or [LAM] * len(rows), strict=True):
        window = values[row.window_start :].tolist()
        after = 0.0 if row.is_finished else window[-1]
        advantages: list[float] = []
        for t in reversed(range(len(window))):
            reward = row.score or 0.0 if row.is_finished and t == len(window) - 1 else 0.0
            following = window[t + 1] if t + 1 < len(window) else after
            delta = reward + following - window[t]
            advantages.insert(0, delta + lam * (advantages[0] if advantages else 0.0))
        found.append(advantages)
    return found


def window_logprobs(network: Any, rows: Sequence[Rollout], **options: float) -> list[Tensor]:
    logprobs = padded_logprobs(network, rows, **options)
    return [of_row[row.window_start :] for of_row, row in zip(logprobs, rows, strict=True)]


def expected_gradients(
    rows: Sequence[Rollout],
    weights: list[list[float]] | None = None,
    *,
    advantages: list[list[float]] | None = None,
) -> Gradients:
    """Of the sum of -w A / N log pi over the window tokens: what the clipped loss is where the ratio is one."""
    network = a_network("policy")
    advantages = advantages or window_advantages(rows)
    weights = weights or [[1.0] * len(of_row) for of_row in advantages]
    num_tokens = sum(weight != 0 for of_row in weights for weight in of_row)
    loss = torch.zeros(())
    for logprobs, of_row, weights_of_row in zip(window_logprobs(network, rows), advantages, weights, strict=True):
        for logprob, advantage, weight in zip(logprobs, of_row, weights_of_row, strict=True):
            loss = loss - weight * advantage / num_tokens * logprob
    return gradients_of(loss, network)


def first_gradients(rows: Sequence[Rollout], *, policy_version: int = 0, **sections: dict[str, Any]) -> Gradients:
    trainer = TinyTrainer(a_step_config(**sections))
    step(trainer, rows, policy_version=policy_version)
    return trainer.actor.gradients[0]


def test_in_the_first_mini_batch_the_gradient_is_minus_the_advantage_over_the_number_of_tokens() -> None:
    rows = some_rows()

    assert_gradients_equal(first_gradients(rows), expected_gradients(rows))


def test_the_sampling_temperature_divides_the_logits() -> None:
    row = a_row([9, 4, 7, 1], score=1.0)
    network = a_network("policy")
    (logprobs,), (advantages,) = window_logprobs(network, [row], temperature=0.5), window_advantages([row])
    loss = -(torch.tensor(advantages) * logprobs).mean()

    actual = first_gradients([row], generation={"temperature": 0.5})

    assert_gradients_equal(actual, gradients_of(loss, network))


def test_the_ignored_tail_of_a_cut_leaves_the_loss_and_its_denominator() -> None:
    rows = some_rows()
    weights = [[1.0] * 4, [1.0] * 4 + [0.0] * 2, [1.0] * 3, [1.0] * 4 + [0.0] * 2]

    actual = first_gradients(rows, algorithm={"num_ignored_tail_tokens": 2, "advantage_whitening": "none"})

    assert_gradients_equal(actual, expected_gradients(rows, weights))


@pytest.mark.parametrize("max_tokens", [16, 4096])
@pytest.mark.parametrize("normalizer", ["rows", "constant", "running"])
def test_the_loss_is_divided_as_configured_whatever_its_micro_batches(normalizer: str, max_tokens: int) -> None:
    rows = some_rows()
    lengths = [len(of_row) for of_row in window_advantages(rows)]
    num_tokens, mean_length = sum(lengths), sum(lengths) / len(lengths)
    by_normalizer: dict[str, list[float]] = {
        "rows": [float(length) for length in lengths],
        "constant": [6.0] * len(rows),
        "running": [mean_length] * len(rows),
    }
    weights = [
        [num_tokens / (len(rows) * divisor)] * length
        for length, divisor in zip(lengths, by_normalizer[normalizer], strict=True)
    ]

    actual = first_gradients(
        rows,
        algorithm={"loss_normalizer": normalizer, "num_ignored_tail_tokens": 0, "advantage_whitening": "none"},
        actor={"lr": 1e-3, "max_tokens_per_microbatch": max_tokens},
    )

    assert_gradients_equal(actual, expected_gradients(rows, weights))


def test_advantages_are_scaled_by_the_deviation_of_the_tokens_that_count() -> None:
    rows = some_rows()[:2]
    unscaled = window_advantages(rows)
    deviation = statistics.stdev(unscaled[0] + unscaled[1][:4])  # the cut row loses its last two
    scaled = [[advantage / deviation for advantage in of_row] for of_row in unscaled]

    actual = first_gradients(rows, algorithm={"num_ignored_tail_tokens": 2, "advantage_whitening": "scale_only"})

    weights = [[1.0] * 4, [1.0] * 4 + [0.0] * 2]
    assert_gradients_equal(actual, expected_gradients(rows, weights, advantages=scaled))


def test_lambda_grows_with_the_length_and_a_cut_response_is_taken_to_last_half_a_window_more() -> None:
    rows = some_rows()  # of 4, 6 (cut), 9 and 12 (cut) tokens
    lambdas = [1 - 1 / 4, 1 - 1 / (6 + 3), 1 - 1 / 9, 1 - 1 / (12 + 3)]
    algorithm = {"num_ignored_tail_tokens": 0, "advantage_whitening": "none", "lam_alpha": 1.0, "lam_floor": 0.0}

    actual = first_gradients(rows, algorithm=algorithm)

    assert_gradients_equal(actual, expected_gradients(rows, advantages=window_advantages(rows, lambdas=lambdas)))


@pytest.mark.parametrize("max_tokens", [16, 64, 4096])
def test_a_mini_batchs_gradient_does_not_depend_on_its_micro_batches(max_tokens: int) -> None:
    actor = {"lr": 1e-3, "max_tokens_per_microbatch": max_tokens}

    assert_gradients_equal(first_gradients(some_rows(), actor=actor), expected_gradients(some_rows()))


def test_tokens_that_are_too_old_are_masked_and_counted() -> None:
    rows = [a_row([9, 4, 7, 1], score=1.0, versions=[3, 4, 5, 6]), a_row([8, 2, 3], versions=[7, 7, 7], score=0.0)]
    run = {"mode": "lockstep", "window_length": 6, "max_response_length": 18, "max_token_lag": 2}
    trainer = TinyTrainer(a_step_config(run=run))

    metrics = step(trainer, rows, policy_version=7)

    assert (metrics["tokens/too_old"], metrics["tokens/policy_mask"]) == (2, 5)
    assert_gradients_equal(trainer.actor.gradients[0], expected_gradients(rows, [[0.0, 0.0, 1.0, 1.0], [1.0] * 3]))


def test_importance_weights_are_old_over_rollout_probabilities_up_to_the_cap() -> None:
    unweighted = [a_row([9, 4, 7, 1], score=1.0)]
    (old,) = window_logprobs(a_network("policy"), unweighted)
    # Ratios 0.5, 1, 1.5 and, beyond the cap, 8.
    sampled = [old[t].item() - math.log(ratio) for t, ratio in enumerate((0.5, 1.0, 1.5, 8.0))]
    rows = [a_row([9, 4, 7, 1], score=1.0, rollout_logprobs=sampled)]
    algorithm = {"num_ignored_tail_tokens": 0, "advantage_whitening": "none", "importance_cap": 2.0}

    actual = first_gradients(rows, algorithm=algorithm)

    assert_gradients_equal(actual, expected_gradients(rows, [[0.5, 1.0, 1.5, 2.0]]))


TO_THE_SAMPLER: dict[str, Any] = {
    "num_ignored_tail_tokens": 0,
    "advantage_whitening": "none",
    "old_logprobs": "rollout",
}


def test_the_ratio_is_to_the_policy_that_sampled_where_configured() -> None:
    (before,) = window_logprobs(a_network("policy"), [a_row([9, 4, 7, 1], score=1.0)])
    ratios = [0.85, 1.0, 1.1, 1.25]  # within the clip
    sampled = [before[t].item() - math.log(ratio) for t, ratio in enumerate(ratios)]
    rows = [a_row([9, 4, 7, 1], score=1.0, rollout_logprobs=sampled)]

    actual = first_gradients(rows, algorithm=TO_THE_SAMPLER)

    assert_gradients_equal(actual, expected_gradients(rows, [ratios]))


def test_a_token_that_older_weights_sampled_begins_beyond_the_clip() -> None:
    row = a_row([9, 4], score=1.0)
    ((first, second),) = window_advantages([row])
    (before,) = window_logprobs(a_network("policy"), [row])
    # Each has moved to where its advantage would push it, farther than an update may: there is nothing left to gain.
    ratios = [2.0 if advantage > 0 else 0.5 for advantage in (first, second)]
    sampled = [before[t].item() - math.log(ratio) for t, ratio in enumerate(ratios)]
    trainer = TinyTrainer(a_step_config(algorithm=TO_THE_SAMPLER))

    metrics = step(trainer, [a_row([9, 4], score=1.0, rollout_logprobs=sampled)])

    assert all(not gradient.any() for gradient in trainer.actor.gradients[0].values())
    assert metrics["actor/pg_clipfrac"] == 1.0


def test_the_policy_is_not_run_before_the_updates_for_a_ratio_to_the_policy_that_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("rows were scored")

    monkeypatch.setattr(selection, "row_logprobs", refuse)
    trainer = TinyTrainer(a_step_config(actor={"ppo_mini_batches": 2}, algorithm=TO_THE_SAMPLER))

    step(trainer, some_rows())

    assert len(trainer.actor.gradients) == 2


def test_what_lies_between_learner_and_engine_is_then_measured_in_the_first_mini_batch() -> None:
    rows = some_rows()
    in_first, _ = mini_batches(range(len(rows)), count=2, epochs=1, seed="")
    for index, of_row in enumerate(window_logprobs(a_network("policy"), rows)):
        reported = of_row if index in in_first else of_row - math.log(4.0)
        rows[index].rollout_logprobs = array("f", [0.0] * rows[index].window_start + reported.tolist())

    metrics = step(TinyTrainer(a_step_config(actor={"ppo_mini_batches": 2}, algorithm=TO_THE_SAMPLER)), rows)

    assert metrics["training/rollout_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["training/engine_kl/max"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("max_tokens", [4, 4096])
def test_the_effective_sample_is_that_of_the_mini_batch_however_it_is_split(max_tokens: int) -> None:
    unweighted = [a_row([9], score=1.0), a_row([4], score=1.0)]
    sampled = [logprobs.item() for logprobs in window_logprobs(a_network("policy"), unweighted)]
    # Ratios 1/2 and 2: (1/2 + 2)^2 / (2 (1/4 + 4)). Each by itself would be 1.
    rows = [
        a_row([9], score=1.0, rollout_logprobs=[sampled[0] - math.log(0.5)]),
        a_row([4], score=1.0, rollout_logprobs=[sampled[1] - math.log(2.0)]),
    ]
    actor = {"max_tokens_per_microbatch": max_tokens}

    metrics = step(TinyTrainer(a_step_config(algorithm={"importance_cap": 2.0}, actor=actor)), rows)

    assert metrics["actor/effective_sample_size"] == pytest.approx(6.25 / 8.5, abs=1e-5)


def test_no_number_of_a_step_depends_on_the_micro_batches() -> None:
    sections = {"actor": {"ppo_mini_batches": 2, "ppo_epochs": 2}, "critic": {"ppo_mini_batches": 2}}
    algorithm = {"importance_cap": 2.0, "lm_loss_weight": 0.1, "num_ignored_tail_tokens": 0}
    in_one, in_many = (
        step(
            TinyTrainer(
                a_step_config(
                    algorithm=algorithm,
                    **{name: keys | {"max_tokens_per_microbatch": tokens} for name, keys in sections.items()},
                )
            ),
            some_rows(),
        )
        for tokens in (4096, 16)
    )

    assert in_many.keys() == in_one.keys()
    for name in in_one.keys() - {"timing_s/values", "timing_s/update_critic", "timing_s/update_actor"}:
        if in_one[name] is None:
            assert in_many[name] is None, name
        else:
            assert in_many[name] == pytest.approx(in_one[name], rel=1e-3, abs=1e-5), name


def test_in_lockstep_there_are_no_importance_weights_unless_configured() -> None:
    rows = [a_row([9, 4, 7, 1], score=1.0, rollout_logprobs=[-5.0, -0.1, -3.0, -9.0])]

    assert_gradients_equal(first_gradients(rows), expected_gradients(rows))


@pytest.mark.parametrize("max_tokens", [16, 4096])
@pytest.mark.parametrize(("lm_tokens", "first_token"), [("all_windows", 0), ("current_window", 6)])
def test_the_likelihood_loss_takes_the_tokens_of_right_responses(
    lm_tokens: str, first_token: int, max_tokens: int
) -> None:
    rows = some_rows()
    rows[2].score = 0.75
    network = a_network("policy")
    of_rows = padded_logprobs(network, rows)
    imitation = -torch.cat([of_rows[0], of_rows[2][first_token:]]).mean()
    expected = gradients_of(0.1 * imitation, network)
    for name, gradient in expected_gradients(rows).items():
        expected[name] = expected[name] + gradient

    algorithm = {"num_ignored_tail_tokens": 0, "advantage_whitening": "none", "lm_loss_weight": 0.1}
    actual = first_gradients(
        rows, algorithm=algorithm | {"lm_tokens": lm_tokens}, actor={"max_tokens_per_microbatch": max_tokens}
    )

    assert_gradients_equal(actual, expected)


def test_a_right_response_is_imitated_though_its_length_costs_more_than_its_score() -> None:
    row = a_row([9, 4, 7, 3, 2, 8, 1], window_start=6, score=0.1)
    algorithm = {"lm_loss_weight": 0.1, "lm_score_threshold": 0.0, "num_ignored_tail_tokens": 0}
    algorithm |= {"overlong_buffer_length": 18}
    network = a_network("policy")
    expected = gradients_of(-0.1 * padded_logprobs(network, [row])[0].mean(), network)
    of_policy = first_gradients([row], algorithm=algorithm | {"lm_loss_weight": 0.0})

    actual = first_gradients([row], algorithm=algorithm)

    assert_gradients_equal({name: actual[name] - of_policy[name] for name in actual}, expected)


@pytest.mark.parametrize(("score", "threshold"), [(0.1, 0.5), (0.5, 0.5), (-1.0, -1.0)])
def test_a_response_that_scored_no_more_than_the_threshold_is_not_imitated(score: float, threshold: float) -> None:
    row = a_row([9, 4, 7, 3, 2, 8, 1], window_start=6, score=score)
    algorithm = {"lm_score_threshold": threshold, "num_ignored_tail_tokens": 0}

    with_likelihood, without = (
        first_gradients([row], algorithm=algorithm | {"lm_loss_weight": weight}) for weight in (0.1, 0.0)
    )

    assert_gradients_equal(with_likelihood, without)


def test_a_right_response_whose_last_window_is_empty_is_still_imitated() -> None:
    row = a_row([9, 4, 7, 3, 2, 8], window_start=6, score=1.0)
    network = a_network("policy")
    expected = gradients_of(-0.1 * padded_logprobs(network, [row])[0].mean(), network)

    assert_gradients_equal(first_gradients([row], algorithm={"lm_loss_weight": 0.1}), expected)


def test_the_learners_and_the_engines_probabilities_are_compared_on_the_trained_tokens() -> None:
    (old,) = window_logprobs(a_network("policy"), [a_row([9, 4], score=1.0)])
    sampled = [math.log(probability) for probability in (0.5, 0.25)]
    gaps = (old.exp() - torch.tensor([0.5, 0.25])).abs().tolist()

    metrics = step(TinyTrainer(a_step_config()), [a_row([9, 4], score=1.0, rollout_logprobs=sampled)])

    assert metrics["training/rollout_probs_diff_mean"] == pytest.approx(sum(gaps) / 2, abs=1e-5)
    assert metrics["training/rollout_probs_diff_max"] == pytest.approx(max(gaps), abs=1e-5)


def test_the_configured_bound_holds_a_wrong_token_that_has_become_much_likelier() -> None:
    system = TinyTrainer(a_step_config(algorithm={"clip_ratio_c": 3.0})).system
    one = torch.ones(1)
    tokens = PolicyTokens(
        batch=pack([TokenRow([2, 9], start=1)], max_tokens=2)[0],
        logprobs=-2.0 * one,
        old_logprobs=-4.0 * one,  # ratio 7.4
        rollout_logprobs=-4.0 * one,
        advantages=-one,
        policy_mask=one.bool(),
        normalizer=1,
    )

    result = system.policy_loss(tokens)

    assert (float(result.loss), float(result.dual_clip_fraction)) == (3.0, 1.0)


def test_gradients_that_are_not_finite_skip_the_update_and_are_counted() -> None:
    trainer = TinyTrainer(a_step_config())
    before = weights_of(trainer.policy.network)

    metrics = step(trainer, [a_row([9, 4, 7, 1], score=math.nan)])

    assert metrics["actor/num_skipped_updates"] == metrics["critic/num_skipped_updates"] == 1
    assert trainer.actor.num_updates == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(trainer.policy.network).items())


def after_one_update(rows: list[Rollout]) -> tuple[TinyTrainer, float]:
    """The policy after the first of two passes, and rho - 1 - log rho over the rows' tokens, by padded rows."""
    trainer = TinyTrainer(a_step_config(actor={"lr": 1e-2}))
    step(trainer, rows)
    moved = a_network("policy")
    moved.load_state_dict(weights_of(trainer.policy.network))
    with torch.no_grad():
        old = torch.cat(window_logprobs(a_network("policy"), rows))
        log_ratio = torch.cat(window_logprobs(moved, rows)) - old
    return trainer, float((log_ratio.exp() - 1 - log_ratio).mean())


@pytest.mark.parametrize(("share", "num_updates"), [(0.99, 1), (1.01, 2), (None, 2)])
@pytest.mark.parametrize("max_tokens", [16, 4096])
def test_an_update_is_skipped_where_the_policy_is_further_than_the_bound_from_that_before_the_step(
    share: float | None, num_updates: int, max_tokens: int
) -> None:
    rows = some_rows()
    once, kl = after_one_update(rows)
    bound = None if share is None else share * kl
    actor = {"lr": 1e-2, "ppo_epochs": 2, "max_kl": bound, "max_tokens_per_microbatch": max_tokens}
    trainer = TinyTrainer(a_step_config(actor=actor))

    metrics = step(trainer, rows)

    assert metrics["actor/kl_to_old/max"] == pytest.approx(kl, rel=1e-3)
    assert (trainer.actor.num_updates, metrics["actor/num_skipped_kl"]) == (num_updates, 2 - num_updates)
    assert metrics["actor/num_skipped_updates"] == 0
    if num_updates == 1:
        expected = weights_of(once.policy.network)
        for name, tensor in weights_of(trainer.policy.network).items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)  # a move is 1e-2


def test_the_first_update_of_a_step_is_never_skipped_by_its_kl() -> None:
    trainer = TinyTrainer(a_step_config(actor={"lr": 1e-2, "max_kl": 1e-9}))

    numbers_of_steps = [step(trainer, some_rows(), policy_version=version) for version in range(2)]

    assert [numbers["actor/num_skipped_kl"] for numbers in numbers_of_steps] == [0, 0]
    assert trainer.actor.num_updates == 2
