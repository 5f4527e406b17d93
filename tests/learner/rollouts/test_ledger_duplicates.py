"""Duplicate records, and records that arrive before they are requested, as a restarted learner reads them.

For this ledger a rollout that it does not hold was started at some time when its id begins with "past".
"""

import pytest

from learner.rollouts.rollout import State
from tests.learner.builders import (
    a_failed_score,
    a_failed_window,
    a_ledger,
    a_requested_rollout,
    a_score,
    a_trained_rollout,
    a_window,
    train_row,
)
from tppo.rollout import Score, Window

FIRST, SECOND, THIRD, FOURTH, FIFTH = ((1, n) for n in range(5))


def test_a_duplicate_window_counts_once() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)

    ledger.add_window(FIRST, a_window("r"))
    ledger.add_window(SECOND, a_window("r"))

    assert len(rollout.response_tokens) == 4
    assert (ledger.ready, rollout.ready_position) == ([rollout], FIRST)
    assert ledger.duplicates == {"window": 1}


def test_a_duplicate_score_counts_once() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", stops=True))

    ledger.add_score(SECOND, a_score("r", 1.0))
    ledger.add_score(THIRD, a_score("r", 0.0))

    assert (rollout.score, ledger.ready) == (1.0, [rollout])
    assert ledger.duplicates == {"score": 1}


def test_the_late_score_of_an_earlier_attempt_is_a_duplicate() -> None:
    ledger = a_ledger(max_score_attempts=3)
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", stops=True))
    ledger.add_score(SECOND, a_failed_score("r", attempt=0))

    ledger.add_score(THIRD, a_score("r", attempt=0))

    assert (rollout.state, rollout.attempt) == (State.SCORING, 1)
    assert ledger.duplicates == {"score": 1}


@pytest.mark.parametrize("is_read_ahead", [False, True])
def test_a_retried_window_is_answered_by_its_own_answer_alone_however_far_is_read_ahead(is_read_ahead: bool) -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_failed_window("r"))
    answers = [(SECOND, a_failed_window("r")), (THIRD, a_window("r", 1))]

    for position, window in answers if is_read_ahead else ():
        ledger.add_window(position, window)
    rollout.is_retry_due = True
    ledger.request_window(rollout, cohort=0, min_policy_version=0)
    for position, window in () if is_read_ahead else answers:
        ledger.add_window(position, window)

    assert (rollout.state, rollout.ready_position, len(rollout.response_tokens)) == (State.READY, THIRD, 4)
    assert ledger.duplicates == {"window": 1}
    assert ledger.conservation().holds


def test_duplicates_of_a_retired_rollout_are_dropped() -> None:
    ledger = a_ledger()

    ledger.add_window(FIRST, a_window("past"))
    ledger.add_score(SECOND, a_score("past"))

    assert ledger.duplicates == {"window": 1, "score": 1}
    assert not ledger.rollouts
    assert not ledger.early_windows
    assert not ledger.early_scores


def test_a_duplicate_of_a_parked_rollout_does_not_revive_it() -> None:
    ledger = a_ledger(max_score_attempts=1)
    failed, unscored = a_requested_rollout(ledger, "failed"), a_requested_rollout(ledger, "unscored")
    ledger.add_window(FIRST, a_failed_window("failed"))
    ledger.add_window(SECOND, a_window("unscored", stops=True))
    ledger.add_score(THIRD, a_failed_score("unscored"))

    ledger.add_window(FOURTH, a_window("failed"))
    ledger.add_score(FIFTH, a_score("unscored"))

    assert failed.state is unscored.state is State.PARKED
    assert [lost.position for lost in ledger.lost] == [FIRST, THIRD]
    assert ledger.duplicates == {"window": 1, "score": 1}


def test_a_duplicate_of_a_trained_window_is_dropped() -> None:
    ledger = a_ledger()
    rollout = a_trained_rollout(ledger)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)

    ledger.add_window(SECOND, a_window("r", 0))

    assert (rollout.state, len(rollout.response_tokens)) == (State.REQUESTED, 4)
    assert ledger.duplicates == {"window": 1}


def test_a_window_and_its_score_that_arrive_before_they_are_requested_wait() -> None:
    ledger = a_ledger()
    ledger.add_window(FIRST, a_window("r", stops=True))
    ledger.add_score(SECOND, a_score("r", 0.5))
    assert not ledger.ready

    rollout = a_requested_rollout(ledger)

    assert (rollout.state, rollout.score, rollout.ready_position) == (State.READY, 0.5, SECOND)
    assert not ledger.early_windows
    assert not ledger.early_scores


def test_the_next_window_and_its_score_wait_while_the_rollout_is_ready() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window(FIRST, a_window("r", 0))

    ledger.add_window(SECOND, a_window("r", 1, stops=True))
    ledger.add_score(THIRD, a_score("r", 0.5))
    train_row(ledger, rollout)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)

    assert (rollout.state, rollout.score, rollout.ready_position) == (State.READY, 0.5, THIRD)
    assert not ledger.duplicates


def test_the_next_window_waits_while_the_rollout_is_trained_and_not_requested() -> None:
    ledger = a_ledger()
    rollout = a_trained_rollout(ledger)

    ledger.add_window(SECOND, a_window("r", 1))
    assert rollout.state is State.TRAINED
    ledger.request_window(rollout, cohort=0, min_policy_version=0)

    assert (rollout.state, rollout.ready_position) == (State.READY, SECOND)


def test_an_early_failure_parks_at_its_own_position() -> None:
    ledger = a_ledger()
    ledger.add_window(SECOND, a_failed_window("r"))

    rollout = a_requested_rollout(ledger)

    assert (rollout.state, [lost.position for lost in ledger.lost]) == (State.PARKED, [SECOND])


def test_an_early_retry_finds_its_failed_attempt() -> None:
    ledger = a_ledger()
    ledger.add_window(FIRST, a_window("r", stops=True))
    ledger.add_score(SECOND, a_failed_score("r", attempt=0))
    ledger.add_score(THIRD, a_score("r", 0.5, attempt=1))

    rollout = a_requested_rollout(ledger)

    assert (rollout.state, rollout.score, rollout.ready_position) == (State.READY, 0.5, THIRD)


@pytest.mark.parametrize(
    ("first", "duplicate"),
    [
        (a_window("r", num_tokens=2, stops=True), a_window("r", num_tokens=3, stops=True)),
        (a_score("r", 1.0), a_score("r", 0.0)),
    ],
    ids=["window", "score"],
)
def test_of_early_duplicates_the_first_counts(first: Window | Score, duplicate: Window | Score) -> None:
    ledger = a_ledger()
    for position, record in ((FIRST, first), (SECOND, duplicate)):
        if isinstance(record, Window):
            ledger.add_window(position, record)
        else:
            ledger.add_score(position, record)
    rollout = a_requested_rollout(ledger)
    ledger.add_window(THIRD, a_window("r", num_tokens=2, stops=True))
    ledger.add_score(FOURTH, a_score("r", 1.0))

    assert (rollout.score, len(rollout.response_tokens)) == (1.0, 2)
    assert ledger.duplicates[type(first).__name__.lower()] >= 1
