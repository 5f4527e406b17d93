import math

import pytest
import torch

from learner.algorithm.rewards import overlong_penalty, terminal_rewards


def test_the_reward_stands_at_the_last_token_of_each_row() -> None:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, True, True]])

    rewards = terminal_rewards(torch.tensor([1.0, -0.5, 0.25]), mask)

    assert rewards.tolist() == [[0.0, 0.0, 1.0, 0.0], [-0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.25]]


def test_a_row_without_tokens_earns_nothing() -> None:
    assert terminal_rewards(torch.tensor([1.0]), torch.tensor([[False, False]])).tolist() == [[0.0, 0.0]]


def test_rows_of_no_length_have_no_rewards() -> None:
    assert terminal_rewards(torch.tensor([1.0]), torch.zeros(1, 0, dtype=torch.bool)).shape == (1, 0)


def test_a_score_that_is_not_a_number_stays_visible_and_in_its_place() -> None:
    rewards = terminal_rewards(torch.tensor([math.nan, 1.0]), torch.tensor([[True, True], [True, True]]))

    assert rewards[0, 1].isnan()
    assert [rewards[0, 0], *rewards[1].tolist()] == [0.0, 0.0, 1.0]


def test_overlong_responses_pay_along_a_slope_up_to_the_limit() -> None:
    lengths = torch.tensor([10_000, 16_384, 16_385, 18_432, 20_479, 20_480, 30_000])

    penalty = overlong_penalty(lengths, max_response_length=20_480, buffer_length=4_096)

    assert penalty.tolist() == pytest.approx([0.0, 0.0, -1 / 4096, -0.5, -4095 / 4096, -1.0, -1.0], abs=1e-7)
