"""Which rows decode together, worked by hand: prompts have 8 tokens."""

import pytest

from benchmarks.generation.decode_batches import Batch, Limits, Network, cohorts, refilled, together, without_refill

NETWORK = Network(num_weights=100, num_layers=2, query_size=10, key_value_size=5, bytes_each=4)


def test_slots_of_rows_that_have_ended_stay_empty_until_the_longest_has() -> None:
    batches = list(without_refill([(8, 3), (8, 1), (8, 3)]))

    # step 1 attends to 8 tokens in three rows, steps 2 and 3 to 9 and 10 in two
    assert batches == [Batch(1, 3, 24.0), Batch(2, 2, 19.0)]


def test_whole_responses_make_a_step_each_and_windows_go_on_first() -> None:
    assert list(cohorts([5, 1, 2, 2, 1], num_rows=2)) == [[(8, 5), (8, 1)], [(8, 2), (8, 2)]]
    assert list(cohorts([5, 1, 2, 2], num_rows=2, window=2)) == [
        [(8, 2), (8, 1)],
        [(10, 2), (8, 2)],
        [(12, 1), (8, 2)],
    ]


def test_slots_that_are_refilled_at_once_stay_full_while_responses_are_there() -> None:
    batches = list(refilled([1, 3, 2, 2, 9, 9, 9], num_slots=2))

    # 1 and 3 run; 2 follows 1 and ends with 3 after step 3; then 2 and 9, and nothing is left to wait behind them
    assert batches == [Batch(1, 2, 16.0), Batch(2, 2, 18.0), Batch(2, 2, 17.0)]


def test_the_next_window_of_a_response_waits_for_its_turn() -> None:
    (first, second, *_) = refilled([4, 4, 1, 1, 1, 1], num_slots=2, window=2)

    assert first == Batch(2, 2, 17.0)  # both begin
    assert second == Batch(1, 2, 16.0)  # two others, whose caches hold the prompt


def test_operations_and_bytes_of_a_step_are_those_of_its_rows_and_caches() -> None:
    batch = Batch(num_steps=3, num_rows=2, num_cached=20.0)

    assert NETWORK.operations(batch) == 2 * 100 * 2 + 4 * 2 * 10 * 20
    assert NETWORK.bytes_read(batch) == 4 * (100 + 2 * 2 * 5 * 20)
    found = together([batch], NETWORK, Limits(operations_per_second=1000, bytes_per_second=1e9))
    assert (found.num_steps, found.num_tokens, found.num_cached) == (3, 6, 60.0)
    assert found.least_seconds == pytest.approx(3 * 2000 / 1000)
    assert found.intensity == pytest.approx(2000 / 2000)
