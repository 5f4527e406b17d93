"""Imitation of right answers, and the KL estimate."""

import math

import pytest
import torch

from learner.algorithm.losses import k3_kl, positive_example_loss
from tests.algorithm.gradients import gradient

# Three tokens with probabilities 1/2, 2/5, 1/2, whose product is 1/10; the last place is padding.
LOGPROBS = torch.tensor([0.5, 0.4, 0.5, math.nan], dtype=torch.float64).log()
MASK = torch.tensor([True, True, True, False])


def test_positive_examples_are_imitated_by_their_mean_negative_log_likelihood() -> None:
    assert positive_example_loss(LOGPROBS, MASK).item() == pytest.approx(math.log(10) / 3, abs=1e-12)  # .7675283643


def test_positive_examples_spread_over_micro_batches_share_one_normalizer() -> None:
    first = positive_example_loss(LOGPROBS[:2], MASK[:2], normalizer=3)
    second = positive_example_loss(LOGPROBS[2:], MASK[2:], normalizer=3)

    assert (first + second).item() == pytest.approx(math.log(10) / 3, abs=1e-12)


def test_without_positive_examples_there_is_nothing_to_imitate() -> None:
    assert positive_example_loss(LOGPROBS, torch.zeros(4, dtype=torch.bool)) == 0.0


def test_padding_reaches_no_gradient_of_imitation_or_kl() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()

    loss = positive_example_loss(logprobs, MASK) + k3_kl(logprobs, LOGPROBS, MASK).sum()

    assert gradient(loss, of=logprobs).tolist() == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 0.0])


def test_k3_is_the_ratio_minus_its_logarithm_minus_one() -> None:
    reference_logprobs = torch.tensor([0.25, 0.4, 1.0, math.nan], dtype=torch.float64).log()

    kl = k3_kl(LOGPROBS, reference_logprobs, MASK)

    # ratios pi_ref / pi of 1/2, 1 and 2
    log_2 = math.log(2)
    assert kl.tolist() == pytest.approx([0.5 + log_2 - 1, 0.0, 2 - log_2 - 1, 0.0], abs=1e-12)


def test_k3_has_the_divergence_as_its_mean_over_sampled_tokens() -> None:
    policy, other = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])

    expected_estimate = (policy * k3_kl(policy.log(), other.log(), torch.ones(3).bool())).sum().item()

    divergence = sum(p * math.log(p / q) for p, q in [(0.7, 0.5), (0.2, 0.25), (0.1, 0.25)])
    assert expected_estimate == pytest.approx(divergence, abs=1e-6)
