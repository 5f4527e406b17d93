"""Imitation of right answers, the balance of routers, and the KL estimate."""

import math

import pytest
import torch

from learner.algorithm.losses import k3_kl, positive_example_loss, router_imbalance
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


# Three tokens' probabilities of two experts, in a row of two and a row of one.
ROUTED = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]])


def test_a_router_is_even_where_a_rows_tokens_are_spread_alike() -> None:
    found = router_imbalance(ROUTED.log(), [2, 1], experts_per_token=1)

    # 2 (1/2 x 1/2 + 1/2 x 1/2), and 2 (1 x 3/4 + 0 x 1/4)
    assert found.tolist() == pytest.approx([1.0, 1.5])


def test_an_even_router_has_as_much_as_it_chooses_experts() -> None:
    assert router_imbalance(ROUTED.log(), [3], experts_per_token=2).tolist() == pytest.approx([2.0])


def test_the_gradient_moves_the_probabilities_and_not_the_choice() -> None:
    logits = ROUTED[2:].log().requires_grad_()

    loss = router_imbalance(logits, [1], experts_per_token=1).sum()

    # 2 x d P_0 / d z = 2 x 3/4 x 1/4
    assert gradient(loss, of=logits).flatten().tolist() == pytest.approx([0.375, -0.375])


def test_routers_are_balanced_in_float32() -> None:
    assert router_imbalance(ROUTED.log().bfloat16(), [3], experts_per_token=1).dtype == torch.float32


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
