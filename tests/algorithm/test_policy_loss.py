"""The policy loss token by token, its gradient, and what must not reach either."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.algorithm.egae import extended_gae
from learner.algorithm.importance import masked
from learner.algorithm.losses import k3_kl, policy_loss
from learner.algorithm.masked_stats import clamp_advantages, whiten_full
from learner.algorithm.token_filter import policy_mask
from tests.algorithm import reference
from tests.algorithm.gradients import gradient
from tests.algorithm.strategies import Row, as_batch, property_test, rows, small_floats

CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28}
NAN = math.nan

#  A      ratio  J      dJ/dlogprob
SEVEN_TOKENS = [
    (2.0, 1.0, -2.0, -2.0),  # on policy
    (1.0, 1.5, -1.28, 0.0),  # good, and already likely enough: clipped high
    (1.0, 0.5, -0.5, -0.5),  # good, and less likely than before: never clipped
    (-1.0, 1.5, 1.5, 1.5),  # bad, and more likely than before: never clipped low
    (-1.0, 0.5, 0.8, 0.0),  # bad, and already unlikely enough: clipped low
    (-0.5, 20.0, 5.0, 0.0),  # bad, and far too likely: held at 10 by the dual clip
    (1.0, 1.27, -1.27, -1.27),  # just inside the upper bound
]
SEVEN_ADVANTAGES = torch.tensor([a for a, *_ in SEVEN_TOKENS], dtype=torch.float64)
SEVEN_LOG_RATIOS = torch.tensor([ratio for _, ratio, *_ in SEVEN_TOKENS], dtype=torch.float64).log()
SEVEN = torch.ones(7, dtype=torch.bool)


def test_loss_is_the_mean_of_the_seven_kinds_of_tokens() -> None:
    result = policy_loss(SEVEN_LOG_RATIOS, torch.zeros(7), SEVEN_ADVANTAGES, SEVEN, **CLIP)

    assert result.loss.item() == pytest.approx(2.25 / 7, abs=1e-12)  # .3214285714
    assert result.num_tokens == 7


def test_gradient_vanishes_on_the_clipped_tokens_only() -> None:
    logprobs = SEVEN_LOG_RATIOS.clone().requires_grad_()

    loss = policy_loss(logprobs, torch.zeros(7), SEVEN_ADVANTAGES, SEVEN, **CLIP).loss

    assert gradient(loss, of=logprobs).tolist() == pytest.approx([g / 7 for *_, g in SEVEN_TOKENS], abs=1e-12)


def test_what_is_logged_counts_the_tokens_where_each_clip_decided() -> None:
    result = policy_loss(SEVEN_LOG_RATIOS, torch.zeros(7), SEVEN_ADVANTAGES, SEVEN, **CLIP)

    assert result.clip_fraction.item() == pytest.approx(2 / 7)
    assert result.dual_clip_fraction.item() == pytest.approx(1 / 7)
    # mean of old - new = -log(1.5 * .5 * 1.5 * .5 * 20 * 1.27) / 7
    assert result.approx_kl.item() == pytest.approx(-math.log(14.2875) / 7)
    assert result.importance_weight_mean == 1.0


def test_without_the_dual_clip_a_bad_token_far_too_likely_has_its_whole_loss() -> None:
    sixth = slice(5, 6)

    result = policy_loss(
        SEVEN_LOG_RATIOS[sixth], torch.zeros(1), SEVEN_ADVANTAGES[sixth], SEVEN[sixth], **CLIP, dual_clip=None
    )

    assert result.loss.item() == pytest.approx(10.0)
    assert result.dual_clip_fraction == 0.0


# Two tokens for the decoupled loss: A 1, ratio 1.04, weight 1/2; A 1/2, ratio 1.1, weight 4.
DECOUPLED_OLD = torch.tensor([0.2, 0.4], dtype=torch.float64).log()
DECOUPLED_ROLLOUT = torch.tensor([0.4, 0.1], dtype=torch.float64).log()
DECOUPLED_NEW = DECOUPLED_OLD + torch.tensor([1.04, 1.1], dtype=torch.float64).log()
DECOUPLED_ADVANTAGES = torch.tensor([1.0, 0.5], dtype=torch.float64)
BOTH = torch.tensor([True, True])


def test_decoupled_loss_weighs_tokens_by_their_capped_importance() -> None:
    result = policy_loss(
        DECOUPLED_NEW,
        DECOUPLED_OLD,
        DECOUPLED_ADVANTAGES,
        BOTH,
        **CLIP,
        rollout_logprobs=DECOUPLED_ROLLOUT,
        importance_cap=2.0,
    )

    # -(1/2 * 1.04 * 1 + 2 * 1.1 * 1/2) / 2
    assert result.loss.item() == pytest.approx(-0.81, abs=1e-12)
    assert result.importance_weight_mean.item() == pytest.approx(1.25)
    assert result.importance_weights.tolist() == pytest.approx([0.5, 2.0])


def test_decoupled_loss_masks_tokens_above_the_cap_and_counts_them() -> None:
    result = policy_loss(
        DECOUPLED_NEW,
        DECOUPLED_OLD,
        DECOUPLED_ADVANTAGES,
        BOTH,
        **CLIP,
        rollout_logprobs=DECOUPLED_ROLLOUT,
        importance_cap=2.0,
        importance_limit=masked,
    )

    # -(1/2 * 1.04 * 1 + 0) / 2
    assert result.loss.item() == pytest.approx(-0.26, abs=1e-12)
    assert result.importance_weights.tolist() == pytest.approx([0.5, 0.0])


def test_decoupled_loss_without_a_cap_uses_the_whole_weight() -> None:
    result = policy_loss(
        DECOUPLED_NEW, DECOUPLED_OLD, DECOUPLED_ADVANTAGES, BOTH, **CLIP, rollout_logprobs=DECOUPLED_ROLLOUT
    )

    assert result.loss.item() == pytest.approx(-(0.52 + 2.2) / 2, abs=1e-12)


def test_tokens_left_out_of_the_mask_may_still_be_counted_in_the_denominator() -> None:
    first_alone = torch.tensor([True, False])

    result = policy_loss(
        DECOUPLED_NEW,
        DECOUPLED_OLD,
        DECOUPLED_ADVANTAGES,
        first_alone,
        **CLIP,
        rollout_logprobs=DECOUPLED_ROLLOUT,
        normalizer=2,
    )

    assert result.loss.item() == pytest.approx(-0.26, abs=1e-12)


def test_importance_weights_scale_the_gradient() -> None:
    logprobs = DECOUPLED_NEW.clone().requires_grad_()

    loss = policy_loss(
        logprobs,
        DECOUPLED_OLD,
        DECOUPLED_ADVANTAGES,
        BOTH,
        **CLIP,
        rollout_logprobs=DECOUPLED_ROLLOUT,
        importance_cap=2.0,
    ).loss

    assert gradient(loss, of=logprobs).tolist() == pytest.approx([-0.52 / 2, -1.1 / 2], abs=1e-12)


def gradient_of_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    logprobs = logprobs.clone().requires_grad_()
    return gradient(policy_loss(logprobs, old_logprobs, advantages, mask, **CLIP).loss, of=logprobs)


@property_test
@given(st.lists(st.tuples(small_floats, small_floats, st.booleans()), min_size=1, max_size=12))
def test_gradient_on_policy_is_minus_advantage_over_tokens(tokens: list[tuple[float, float, bool]]) -> None:
    logprobs = torch.tensor([logprob for logprob, *_ in tokens], dtype=torch.float64)
    advantages = torch.tensor([a for _, a, _ in tokens], dtype=torch.float64)
    mask = torch.tensor([counts for *_, counts in tokens])
    num_tokens = sum(counts for *_, counts in tokens)

    gradient = gradient_of_loss(logprobs, logprobs, advantages, mask)

    expected = [-a / num_tokens if counts else 0.0 for _, a, counts in tokens]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-12)


def test_log_ratio_is_not_the_k3_estimate_whose_gradient_vanishes_on_policy() -> None:
    logprobs, advantages, mask = torch.tensor([-1.3]), torch.tensor([1.0]), torch.tensor([True])

    of_loss = gradient_of_loss(logprobs, logprobs, advantages, mask)
    moving = logprobs.clone().requires_grad_()
    of_k3_as_log_ratio = gradient(-advantages * k3_kl(moving, logprobs, mask).exp(), of=moving)

    assert of_loss.item() == -1.0
    assert of_k3_as_log_ratio.item() == 0.0


@property_test
@given(st.lists(st.tuples(st.floats(0.01, 30.0), small_floats), min_size=1, max_size=12))
def test_loss_equals_the_case_by_case_reference(tokens: list[tuple[float, float]]) -> None:
    ratios = torch.tensor([ratio for ratio, _ in tokens], dtype=torch.float64)
    advantages = torch.tensor([a for _, a in tokens], dtype=torch.float64)

    result = policy_loss(ratios.log(), torch.zeros_like(ratios), advantages, torch.ones_like(ratios).bool(), **CLIP)

    expected = [reference.clipped_objective(r, a, clip_low=0.2, clip_high=0.28, dual_clip=10.0) for r, a in tokens]
    assert result.loss.item() == pytest.approx(sum(expected) / len(expected), abs=1e-9)


@pytest.mark.parametrize("garbage", [NAN, math.inf, -math.inf])
def test_padding_reaches_neither_the_loss_nor_its_gradient(garbage: float) -> None:
    mask = torch.cat([SEVEN, torch.tensor([False])])

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, torch.tensor([garbage], dtype=x.dtype)])

    logprobs = padded(SEVEN_LOG_RATIOS).requires_grad_()
    zeros = padded(torch.zeros(7, dtype=torch.float64))

    result = policy_loss(
        logprobs, zeros, padded(SEVEN_ADVANTAGES), mask, **CLIP, rollout_logprobs=zeros, importance_cap=2.0
    )

    assert result.loss.item() == pytest.approx(2.25 / 7, abs=1e-12)
    assert gradient(result.loss, of=logprobs).tolist() == pytest.approx(
        [*[g / 7 for *_, g in SEVEN_TOKENS], 0.0], abs=1e-12
    )
    assert result.importance_weight_mean == 1.0


def test_a_batch_and_its_flat_tokens_have_the_same_loss() -> None:
    tokens = [SEVEN_LOG_RATIOS, torch.zeros(7, dtype=torch.float64), SEVEN_ADVANTAGES, SEVEN]

    in_rows = policy_loss(*[x[:6].reshape(2, 3) for x in tokens], **CLIP)
    flat = policy_loss(*[x[:6] for x in tokens], **CLIP)

    assert in_rows.loss == flat.loss
    assert flat.loss.item() == pytest.approx(3.52 / 6, abs=1e-12)


def test_parts_of_a_mini_batch_add_up_to_its_loss() -> None:
    tokens = [SEVEN_LOG_RATIOS, torch.zeros(7, dtype=torch.float64), SEVEN_ADVANTAGES, SEVEN]

    parts = [policy_loss(*[x[part] for x in tokens], **CLIP, normalizer=7) for part in (slice(0, 2), slice(2, 7))]

    assert sum(part.loss.item() for part in parts) == pytest.approx(2.25 / 7, abs=1e-12)


def test_no_tokens_have_loss_and_gradient_zero() -> None:
    logprobs = torch.zeros(3, requires_grad=True)

    result = policy_loss(logprobs, torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.bool), **CLIP)

    assert result.loss == 0.0
    assert not gradient(result.loss, of=logprobs).any()


@property_test
@given(
    st.one_of(
        st.lists(rows(is_finished=True), min_size=1, max_size=4),
        st.lists(rows(is_finished=False), min_size=1, max_size=4),
        st.lists(rows(), min_size=1, max_size=4),
    ),
    st.integers(0, 10),
)
def test_a_step_never_yields_nan(batch_rows: list[Row], num_ignored_tail_tokens: int) -> None:
    batch = as_batch(batch_rows)
    logprobs = torch.full_like(batch.values, -1.0).where(batch.response_mask, NAN).requires_grad_()

    advantages = extended_gae(
        batch.rewards, batch.values, batch.response_mask, batch.is_finished, gamma=1.0, gae_lambda=0.95
    )
    mask = policy_mask(batch.response_mask, batch.is_finished, num_ignored_tail_tokens=num_ignored_tail_tokens)
    normalized = clamp_advantages(whiten_full(advantages, mask))
    loss = policy_loss(logprobs, logprobs.detach(), normalized, mask, **CLIP).loss

    assert loss.isfinite()
    assert gradient(loss, of=logprobs).isfinite().all()
