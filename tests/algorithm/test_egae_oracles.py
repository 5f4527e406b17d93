"""Worked examples of the advantage estimator, from a table made by hand in exact fractions (data/egae_cases.json)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.algorithm.egae import (
    effective_lengths,
    extended_gae,
    length_adaptive_lambda,
    monte_carlo_returns,
    temporal_differences,
)
from learner.algorithm.token_filter import policy_mask, value_mask

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((Path(__file__).parent / "data" / "egae_cases.json").read_text(encoding="utf-8"))["cases"]
}
SINGLE_WINDOW_CASES = ["C01", "C02", "C03", "C04", "C05", "C06", "C07", "C08"]


def row(numbers: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([numbers], dtype=dtype)


def assert_close(actual: Tensor, expected: list[float], *, atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=0)


def window(case_id: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    inputs = CASES[case_id]["inputs"]
    return {
        "rewards": row(inputs["rewards"], dtype),
        "values": row(inputs["values"], dtype),
        "response_mask": torch.ones(1, len(inputs["values"]), dtype=torch.bool),
        "is_finished": torch.tensor([inputs["finished"]]),
        "gamma": inputs["gamma"],
        "boundary": inputs["boundary"],
        "bootstrap_values": None if inputs["v_boot"] is None else torch.tensor([inputs["v_boot"]], dtype=dtype),
    }


@pytest.mark.parametrize("case_id", SINGLE_WINDOW_CASES)
def test_advantages_equal_the_worked_example(case_id: str) -> None:
    advantages = extended_gae(**window(case_id), gae_lambda=CASES[case_id]["inputs"]["lam"])

    assert_close(advantages[0], CASES[case_id]["expected"]["advantages"])


@pytest.mark.parametrize("case_id", SINGLE_WINDOW_CASES)
def test_advantages_in_single_precision_equal_the_worked_example(case_id: str) -> None:
    advantages = extended_gae(**window(case_id, torch.float32), gae_lambda=CASES[case_id]["inputs"]["lam"])

    assert advantages.dtype == torch.float32
    assert_close(advantages[0], CASES[case_id]["expected"]["advantages"], atol=1e-5)


@pytest.mark.parametrize("case_id", SINGLE_WINDOW_CASES)
def test_temporal_differences_equal_the_worked_example(case_id: str) -> None:
    deltas = temporal_differences(**window(case_id))

    assert_close(deltas[0], CASES[case_id]["expected"]["delta"])


@pytest.mark.parametrize("case_id", ["C01", "C05", "C08"])
def test_value_targets_of_a_finished_row_equal_the_worked_example(case_id: str) -> None:
    inputs = window(case_id)

    returns = monte_carlo_returns(inputs["rewards"], inputs["response_mask"], gamma=inputs["gamma"])

    assert_close(returns[0], CASES[case_id]["expected"]["value_returns_mc"])


@pytest.mark.parametrize("case_id", SINGLE_WINDOW_CASES)
def test_value_mask_equals_the_worked_example(case_id: str) -> None:
    inputs = window(case_id)

    mask = value_mask(inputs["response_mask"], inputs["is_finished"])

    assert mask[0].int().tolist() == CASES[case_id]["expected"]["value_mask"]


def test_a_cut_window_of_two_is_estimated_by_itself_and_loses_its_tail() -> None:
    inputs, expected = CASES["C09"]["inputs"], CASES["C09"]["expected"]["step1"]
    rewards, values = row(inputs["window1"]["rewards"]), row(inputs["window1"]["values"])
    everything, is_finished = torch.ones(1, 4, dtype=torch.bool), torch.tensor([False])

    advantages = extended_gae(rewards, values, everything, is_finished, gamma=1.0, gae_lambda=0.9)
    mask = policy_mask(everything, is_finished, num_ignored_tail_tokens=inputs["K"])

    assert_close(advantages[0], expected["advantages_raw"])
    assert mask[0].int().tolist() == expected["policy_mask"]
    assert_close(torch.where(mask, advantages, 0.0)[0], expected["advantages_masked"])
    assert value_mask(everything, is_finished)[0].int().tolist() == expected["value_mask"]


def test_the_last_window_of_two_has_the_advantages_of_the_whole_response() -> None:
    inputs, expected = CASES["C09"]["inputs"], CASES["C09"]["expected"]
    rewards, values = row(inputs["window2"]["rewards"]), row(inputs["window2"]["values"])
    is_finished = torch.tensor([True])

    advantages = extended_gae(
        rewards, values, torch.ones(1, 3, dtype=torch.bool), is_finished, gamma=1.0, gae_lambda=0.9
    )

    assert_close(advantages[0], expected["step2"]["advantages_current_window"])
    assert_close(advantages[0], expected["full_gae_stitched_values"][-3:])


def test_the_last_window_trains_its_own_tokens_in_the_policy_and_all_tokens_in_the_value_model() -> None:
    expected = CASES["C09"]["expected"]["step2"]
    response, current_window = torch.ones(1, 7, dtype=torch.bool), torch.arange(7)[None] >= 4
    is_finished = torch.tensor([True])
    rewards = row([0, 0, 0, 0, 0, 0, 1])

    policy_tokens = policy_mask(current_window, is_finished, num_ignored_tail_tokens=2)

    assert policy_tokens[0].int().tolist() == expected["policy_mask_full_response"]
    assert value_mask(response, is_finished)[0].int().tolist() == expected["value_mask_full_response"]
    assert_close(monte_carlo_returns(rewards, response, gamma=1.0)[0], expected["value_returns_full_response"])


@pytest.mark.parametrize(("floor", "expected_key"), [(0.0, "clamp_0_1"), (0.95, "floor_0_95")])
def test_lambda_grows_with_the_length_above_its_floor(floor: float, expected_key: str) -> None:
    case = CASES["C10"]
    lengths = torch.tensor(case["inputs"]["lengths"], dtype=torch.float64)

    gae_lambda = length_adaptive_lambda(lengths, alpha=0.05, floor=floor)

    assert_close(gae_lambda, case["expected"][expected_key])


def test_lambda_of_a_cut_row_expects_half_a_window_more() -> None:
    case = CASES["C11"]
    rows = case["inputs"]["rows"]
    tokens_so_far = torch.tensor([r["tokens_so_far"] for r in rows])
    is_finished = torch.tensor([r["finished"] for r in rows])

    lengths = effective_lengths(tokens_so_far, is_finished, window_length=8192)

    assert lengths.tolist() == case["expected"]["l_eff"]
    assert_close(length_adaptive_lambda(lengths.double()), case["expected"]["lam"])


def test_lambda_of_an_empty_response_is_the_floor() -> None:
    assert_close(length_adaptive_lambda(torch.tensor([0])), [0.95], atol=1e-6)


@pytest.mark.parametrize(("is_finished", "reward", "expected"), [(False, 0.0, 0.0), (True, 1.0, 0.7)])
def test_a_window_of_one_token_is_judged_by_its_reward_alone(is_finished: bool, reward: float, expected: float) -> None:
    advantages = extended_gae(
        row([reward]),
        row([0.3]),
        torch.tensor([[True]]),
        torch.tensor([is_finished]),
        gamma=1.0,
        gae_lambda=0.95,
    )

    assert_close(advantages[0], [expected])


def test_a_gap_belongs_to_the_transition() -> None:
    """Worked by hand: gamma 1/2, lambda 1/2, values 1, 2 | gap | 4, and 9 and 7 in the gap, which nobody reads.

    Finished with 8: delta = (0.5*2 - 1, 0.5*4 - 2, 8 - 4) = (0, 0, 4); A = (0.25, 1, 4).
    Cut, "hold": delta_2 = 0.5*4 - 4 = -2; A = (-0.125, -0.5, -2). Cut, "bootstrap" from 6: delta_2 = 3 - 4; A / 2.
    """
    mask = torch.tensor([[True, True, False, False, True]])
    values = row([1.0, 2.0, 9.0, 7.0, 4.0])
    rewards = row([0.0, 0.0, 0.0, 0.0, 8.0])

    def advantages(rewards: Tensor, *, is_finished: bool, **boundary: Any) -> Tensor:
        finished = torch.tensor([is_finished])
        return extended_gae(rewards, values, mask, finished, gamma=0.5, gae_lambda=0.5, **boundary)[0]

    nothing = torch.zeros_like(rewards)
    assert_close(advantages(rewards, is_finished=True), [0.25, 1.0, 0.0, 0.0, 4.0])
    assert_close(advantages(nothing, is_finished=False), [-0.125, -0.5, 0.0, 0.0, -2.0])
    bootstrapped = advantages(
        nothing, is_finished=False, boundary="bootstrap", bootstrap_values=torch.tensor([6.0]).double()
    )
    assert_close(bootstrapped, [-0.0625, -0.25, 0.0, 0.0, -1.0])
    assert_close(monte_carlo_returns(rewards, mask, gamma=0.5)[0], [2.0, 4.0, 0.0, 0.0, 8.0])
