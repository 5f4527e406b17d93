import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.token_filter import policy_mask, positive_example_mask, recent_mask, value_mask
from tests.algorithm.strategies import property_test

FINISHED, CUT, EMPTY = 0, 1, 2
RESPONSE = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
IS_FINISHED = torch.tensor([True, False, False])


def test_a_finished_row_keeps_its_tail_and_a_cut_row_loses_it() -> None:
    mask = policy_mask(RESPONSE, IS_FINISHED, num_ignored_tail_tokens=3)

    assert mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_ignoring_no_tail_tokens_keeps_all_tokens() -> None:
    assert torch.equal(policy_mask(RESPONSE, IS_FINISHED, num_ignored_tail_tokens=0), RESPONSE)


@pytest.mark.parametrize("num_ignored_tail_tokens", [4, 5, 100])
def test_a_tail_as_long_as_the_window_leaves_a_cut_row_nothing(num_ignored_tail_tokens: int) -> None:
    mask = policy_mask(RESPONSE, IS_FINISHED, num_ignored_tail_tokens=num_ignored_tail_tokens)

    assert not mask[CUT].any()
    assert torch.equal(mask[FINISHED], RESPONSE[FINISHED])


def test_the_tail_ends_where_the_row_ends_and_not_where_the_padding_ends() -> None:
    padded = torch.tensor([[True, True, True, False, False]])

    mask = policy_mask(padded, torch.tensor([False]), num_ignored_tail_tokens=1)

    assert mask.int().tolist() == [[1, 1, 0, 0, 0]]


def test_recent_tokens_are_at_most_the_allowed_number_of_versions_old() -> None:
    token_versions = torch.tensor([[3, 4, 5, 6], [7, 7, 5, 0]])

    mask = recent_mask(token_versions, policy_version=7, max_token_lag=2)

    assert mask.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]


def test_tokens_of_a_version_to_come_are_not_recent() -> None:
    token_versions = torch.tensor([[7, 8, 1000]])

    assert recent_mask(token_versions, policy_version=7, max_token_lag=2).tolist() == [[True, False, False]]


def test_with_no_lag_allowed_only_tokens_of_the_trained_weights_are_recent() -> None:
    assert recent_mask(torch.tensor([[4, 3]]), policy_version=4, max_token_lag=0).tolist() == [[True, False]]


def test_value_mask_keeps_finished_rows_only() -> None:
    assert value_mask(RESPONSE, IS_FINISHED).int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_positive_examples_are_finished_rows_that_scored_above_zero() -> None:
    response = torch.ones(5, 1, dtype=torch.bool)
    scores = torch.tensor([1.0, -1.0, float("nan"), 0.0, 1.0])

    mask = positive_example_mask(response, torch.tensor([True, True, False, True, False]), scores)

    assert mask[:, 0].tolist() == [True, False, False, False, False]


def test_a_wrong_answer_in_the_right_format_is_no_positive_example() -> None:
    response = torch.ones(4, 1, dtype=torch.bool)
    scores = torch.tensor([0.1, 0.5, 1.0, -1.0])

    mask = positive_example_mask(response, torch.ones(4, dtype=torch.bool), scores, score_threshold=0.5)

    assert mask[:, 0].tolist() == [False, False, True, False]


def test_flags_that_are_not_boolean_are_refused() -> None:
    with pytest.raises(ValueError, match="boolean"):
        policy_mask(RESPONSE, torch.tensor([1, 0, 0]), num_ignored_tail_tokens=1)


@property_test
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 14))
def test_each_token_trains_the_policy_once_or_lies_in_the_tail_of_a_cut(
    response_length: int, window_length: int, num_ignored: int
) -> None:
    times = torch.arange(response_length)[None]
    times_trained = torch.zeros(1, response_length, dtype=torch.int64)
    for start in range(0, response_length, window_length):
        window = (times >= start) & (times < start + window_length)
        is_last = torch.tensor([start + window_length >= response_length])
        times_trained += policy_mask(window, is_last, num_ignored_tail_tokens=num_ignored)

    last_start = (response_length - 1) // window_length * window_length
    expected = [
        1 if t >= last_start or t % window_length < window_length - num_ignored else 0 for t in range(response_length)
    ]
    assert times_trained[0].tolist() == expected
