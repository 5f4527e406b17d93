"""A rollout from its first window to its end, record by record, through failures too."""

import pytest

from learner.exchange.reconciliation import resend, waited_for
from learner.rollouts.ledger import Ledger
from learner.rollouts.requests import UnscoredResponse
from learner.rollouts.rollout import State
from tests.learner.builders import (
    a_failed_score,
    a_failed_window,
    a_ledger,
    a_requested_rollout,
    a_score,
    a_trained_rollout,
    a_window,
    ending,
    train_row,
)
from tppo.rollout import FinishReason, RewardRequest, ScoreStatus, WindowRequest

FIRST, SECOND, THIRD, FOURTH = ((1, n) for n in range(4))


def window_requests(ledger: Ledger) -> list[WindowRequest]:
    return [request for request in ledger.outbox if isinstance(request, WindowRequest)]


def reward_requests(ledger: Ledger) -> list[RewardRequest]:
    return [one.request(ledger.decode) for one in ledger.outbox if isinstance(one, UnscoredResponse)]


def test_a_window_that_does_not_end_the_response_is_ready_without_a_score() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)

    ledger.add_window(SECOND, a_window("r", policy_version=7))

    assert (rollout.state, rollout.is_finished, rollout.score) == (State.READY, False, None)
    assert ledger.ready == [rollout]
    assert list(rollout.response_tokens) == [10, 11, 12, 13]
    assert list(rollout.token_versions) == [7, 7, 7, 7]
    assert not reward_requests(ledger)


def test_a_response_that_stopped_is_ready_with_its_score() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, a_window("r", num_tokens=2, stops=True))
    assert (rollout.state, ledger.ready) == (State.SCORING, [])
    ledger.add_score(SECOND, a_score("r", 0.25))

    assert (rollout.state, rollout.score, rollout.ready_position) == (State.READY, 0.25, SECOND)
    (request,) = reward_requests(ledger)
    assert (request.key, request.response, request.num_response_tokens) == (("r", 0), "10 1", 2)
    assert (request.data_source, request.ground_truth) == ("sums", "answer 0")
    assert request.finish_reason is FinishReason.STOP


def test_a_stop_token_that_is_the_windows_last_token_ends_the_response() -> None:
    ledger = a_ledger(window_length=4)
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, a_window("r", num_tokens=4, stops=True))

    assert (rollout.state, rollout.is_finished) == (State.SCORING, True)


def test_a_response_at_its_limit_is_scored_without_a_stop_token() -> None:
    ledger = a_ledger(window_length=4, max_response_length=4)
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, a_window("r"))

    assert (rollout.state, rollout.is_finished) == (State.SCORING, True)
    assert [request.finish_reason for request in reward_requests(ledger)] == [FinishReason.LENGTH]


def test_the_last_window_requests_what_is_left_of_the_limit() -> None:
    ledger = a_ledger(window_length=4, max_response_length=10)
    rollout = a_requested_rollout(ledger)
    for index, position in enumerate((FIRST, SECOND)):
        ledger.add_window(position, a_window("r", index))
        train_row(ledger, rollout)
        ledger.request_window(rollout, cohort=0, min_policy_version=0)

    ledger.add_window(THIRD, a_window("r", 2, num_tokens=2))

    assert [request.max_new_tokens for request in window_requests(ledger)] == [4, 4, 2]
    assert [len(request.response_tokens) for request in window_requests(ledger)] == [0, 4, 8]
    assert rollout.is_finished


def test_a_trained_window_keeps_its_values_and_the_next_one_begins_behind_it() -> None:
    ledger = a_ledger()
    rollout = a_trained_rollout(ledger)

    ledger.request_window(rollout, cohort=3, min_policy_version=9)
    ledger.add_window(SECOND, a_window("r", 1, num_tokens=3, stops=True))

    assert (rollout.window_index, rollout.window_start, rollout.cohort) == (1, 4, 3)
    assert list(rollout.window_tokens) == [10, 11, 1]
    assert list(rollout.values) == [0.5] * 4
    assert window_requests(ledger)[-1].min_policy_version == 9


def test_a_trained_finished_rollout_leaves() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", stops=True))
    ledger.add_score(SECOND, a_score("r"))

    train_row(ledger, rollout)

    assert (ledger.rollouts, ledger.ready) == ({}, [])
    assert ledger.conservation().trained == 1


def test_all_windows_of_a_rollout_are_sampled_from_the_same_seed_of_its_own() -> None:
    ledger = a_ledger()
    rollout = a_trained_rollout(ledger)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)
    a_requested_rollout(ledger, "another")

    first, second, another = window_requests(ledger)

    assert first.seed == second.seed != another.seed


def test_ready_rows_stand_in_the_order_of_the_records_that_made_them_ready() -> None:
    ledger = a_ledger()
    scored, early, late = (a_requested_rollout(ledger, name) for name in ("scored", "early", "late"))

    ledger.add_window(FIRST, a_window("scored", stops=True))
    ledger.add_window(SECOND, a_window("early"))
    ledger.add_window(FOURTH, a_window("late"))
    ledger.add_score(THIRD, a_score("scored"))

    assert ledger.ready == [early, scored, late]


def test_one_empty_window_is_a_stall_and_a_second_in_a_row_ends_the_response() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, a_window("r", 0, num_tokens=0))
    assert (rollout.state, rollout.is_finished) == (State.READY, False)
    train_row(ledger, rollout)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)
    ledger.add_window(SECOND, a_window("r", 1, num_tokens=0))

    assert (rollout.state, rollout.is_finished) == (State.SCORING, True)


def test_a_token_after_a_stall_forgives_it() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    for index, num_tokens in enumerate((0, 4, 0)):
        ledger.add_window((1, index), a_window("r", index, num_tokens=num_tokens))
        train_row(ledger, rollout)
        ledger.request_window(rollout, cohort=0, min_policy_version=0)

    assert not rollout.is_finished


def test_a_failed_window_parks_its_rollout_with_the_cause() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, a_failed_window("r", error="too long"))

    assert (rollout.state, rollout.cause) == (State.PARKED, "generation failed: too long")
    assert [lost.position for lost in ledger.lost] == [FIRST]
    assert ledger.conservation().parked == 1


@pytest.mark.parametrize("status", [ScoreStatus.ABSTAINED, ScoreStatus.TIMED_OUT, ScoreStatus.FAILED])
def test_a_response_without_a_score_is_retried_and_then_parked_never_scored_zero(status: ScoreStatus) -> None:
    ledger = a_ledger(max_score_attempts=2)
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", stops=True))

    ledger.add_score(SECOND, a_failed_score("r", status, attempt=0))
    assert rollout.state is State.SCORING
    ledger.add_score(THIRD, a_failed_score("r", status, attempt=1))

    assert [request.attempt for request in reward_requests(ledger)] == [0, 1]
    assert (rollout.state, rollout.score, ledger.ready) == (State.PARKED, None, [])
    assert rollout.cause == f"no score after 2 attempts: {status.name} no verdict"


def test_a_retry_that_succeeds_is_a_score() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", stops=True))

    ledger.add_score(SECOND, a_failed_score("r", attempt=0))
    ledger.add_score(THIRD, a_score("r", 0.5, attempt=1))

    assert (rollout.state, rollout.score) == (State.READY, 0.5)


def test_an_evaluation_rollout_is_one_window_and_no_training_row() -> None:
    ledger = a_ledger(window_length=4, max_response_length=10)
    rollout = a_requested_rollout(ledger, "eval-0-0", is_evaluation=True)

    ledger.add_window(FIRST, a_window("eval-0-0", num_tokens=10))
    ledger.add_score(SECOND, a_score("eval-0-0"))

    (request,) = window_requests(ledger)
    assert (request.max_new_tokens, request.temperature, request.is_evaluation) == (10, 0.5, True)
    assert (ledger.ready, ledger.scored_evaluations) == ([], [rollout])
    assert ledger.conservation().issued == 0


def test_a_request_that_the_queue_lost_is_resent() -> None:
    ledger = a_ledger()
    a_requested_rollout(ledger, "requested")
    a_requested_rollout(ledger, "scoring")
    a_requested_rollout(ledger, "ready")
    ledger.add_window(FIRST, a_window("scoring", stops=True))
    ledger.add_window(SECOND, a_window("ready"))
    sent, ledger.outbox = ledger.outbox, []

    resend(ledger, waited_for(ledger.rollouts.values()).values())

    assert [request.rollout_id for request in ledger.outbox] == ["requested", "scoring"]
    assert all(request in sent for request in ledger.outbox)


def test_the_mask_of_sampled_tokens_grows_with_the_windows_and_reaches_the_reward_function() -> None:
    ledger = a_ledger(window_length=4, max_response_length=10)
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", num_tokens=2))
    train_row(ledger, rollout)
    ledger.request_window(rollout, cohort=1, min_policy_version=0)
    ledger.add_window(SECOND, ending(a_window("r", 1, num_tokens=3), FinishReason.TOOL, not_sampled=[1, 2]))
    assert (rollout.state, rollout.is_sampled()) == (State.READY, b"\1\1\1\0\0")
    train_row(ledger, rollout)
    ledger.request_window(rollout, cohort=2, min_policy_version=0)
    ledger.add_window(THIRD, a_window("r", 2, num_tokens=2, stops=True))

    assert rollout.is_sampled() == b"\1\1\1\0\0\1\1"
    (request,) = reward_requests(ledger)
    assert (request.num_response_tokens, request.num_not_sampled_tokens) == (7, 2)
    assert request.finish_reason is FinishReason.STOP


def test_a_stop_token_in_a_tools_output_ends_no_response() -> None:
    ledger = a_ledger(window_length=4, max_response_length=4)
    a_requested_rollout(ledger)
    window = ending(a_window("r", num_tokens=4, stops=True), FinishReason.TOOL, not_sampled=[3])

    ledger.add_window(FIRST, window)

    (request,) = reward_requests(ledger)  # for it is at its limit
    assert request.finish_reason is FinishReason.LENGTH


def test_a_window_that_was_handed_over_trains_and_the_rest_is_an_ordinary_next_window() -> None:
    ledger = a_ledger(window_length=4, max_response_length=10)
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, ending(a_window("r", num_tokens=3), FinishReason.CUT))
    assert (rollout.state, rollout.num_stalls, rollout.has_short_windows) == (State.READY, 0, True)
    train_row(ledger, rollout)
    ledger.request_window(rollout, cohort=1, min_policy_version=0)

    rest = window_requests(ledger)[-1]
    assert (rest.key, list(rest.response_tokens), rest.max_new_tokens) == (("r", 1), [10, 11, 12], 4)
