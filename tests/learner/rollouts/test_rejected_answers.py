"""A rejected record counts as never arrived: its request is resent three times at most, then its rollout is parked."""

import pytest

from learner.rollouts.ledger import MAX_RESENDS, Ledger
from learner.rollouts.requests import RequestKey, key_of
from learner.rollouts.rollout import State
from tests.learner.builders import (
    a_config,
    a_ledger,
    a_manager,
    a_requested_rollout,
    a_score,
    a_trained_rollout,
    a_window,
)
from tests.learner.simulation import Reader, a_run_config

WINDOW: RequestKey = ("WindowRequest", "r", 0)
SCORE: RequestKey = ("RewardRequest", "r", 0)
CAUSE = "window 0 of r: token 1000000; expected one of 0 to 99"


def reject(ledger: Ledger, key: RequestKey | None, *numbers: int) -> None:
    for number in numbers:
        ledger.reject((1, number), key, CAUSE)


def sent_by(ledger: Ledger) -> list[RequestKey]:
    requests, ledger.outbox = ledger.outbox, []
    return [key_of(request) for request in requests]


def test_the_request_of_a_rejected_window_is_resent_three_times_and_then_its_rollout_is_parked() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)

    reject(ledger, WINDOW, 1, 2, 3)

    assert (sent_by(ledger), rollout.state) == ([WINDOW] * (1 + MAX_RESENDS), State.REQUESTED)
    reject(ledger, WINDOW, 4)
    assert (sent_by(ledger), rollout.state, rollout.ready_position) == ([], State.PARKED, (1, 4))
    assert rollout.cause == f"4 answers were rejected, the last one: {CAUSE}"
    assert (ledger.num_rejected_records, ledger.conservation().parked, ledger.conservation().holds) == (4, 1, True)


def test_the_request_of_a_rejected_score_is_resent_and_then_its_rollout_is_parked() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window((1, 0), a_window("r", stops=True))
    sent_by(ledger)

    reject(ledger, SCORE, 1, 2, 3)

    assert (sent_by(ledger), rollout.state) == ([SCORE] * MAX_RESENDS, State.SCORING)
    reject(ledger, SCORE, 4)
    assert (rollout.state, rollout.is_finished) == (State.PARKED, True)


def test_a_sound_answer_to_a_resent_request_is_taken_and_each_request_has_resends_of_its_own() -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    reject(ledger, WINDOW, 1, 2, 3)

    ledger.add_window((1, 4), a_window("r", stops=True))
    reject(ledger, SCORE, 5, 6, 7)
    ledger.add_score((1, 8), a_score("r"))

    assert (rollout.state, rollout.ready_position) == (State.READY, (1, 8))


@pytest.mark.parametrize("late", [WINDOW, ("WindowRequest", "past-1", 0), ("RewardRequest", "past-1", 0), None])
def test_poison_behind_the_answer_or_of_no_request_changes_nothing(late: RequestKey | None) -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    ledger.add_window((1, 0), a_window("r"))
    sent_by(ledger)

    reject(ledger, late, 1, 2, 3, 4)

    assert (rollout.state, sent_by(ledger), ledger.early_rejections) == (State.READY, [], {})
    assert ledger.num_rejected_records == 4


def test_poison_before_the_request_parks_it_when_it_is_made_as_it_did_in_order() -> None:
    second: RequestKey = ("WindowRequest", "r", 1)
    ledger = a_ledger()
    rollout = a_trained_rollout(ledger)

    reject(ledger, second, 2, 3, 4, 5, 6, 7)
    ledger.add_window((1, 8), a_window("r", 1))
    ledger.request_window(rollout, cohort=1, min_policy_version=1)

    assert (rollout.state, rollout.ready_position, ledger.duplicates) == (State.PARKED, (1, 5), {"window": 1})


def test_poison_behind_an_early_answer_does_not_park_its_rollout() -> None:
    second: RequestKey = ("WindowRequest", "r", 1)
    ledger = a_ledger()
    rollout = a_trained_rollout(ledger)

    reject(ledger, second, 2, 3)
    ledger.add_window((1, 4), a_window("r", 1))
    reject(ledger, second, 5, 6, 7)
    ledger.request_window(rollout, cohort=1, min_policy_version=1)

    assert (rollout.state, rollout.num_rejections, ledger.early_rejections) == (State.READY, 2, {})


def test_a_checkpoint_keeps_what_was_rejected() -> None:
    reader = Reader(a_run_config("streaming"))
    ledger = reader.manager.ledger
    reject(ledger, ("WindowRequest", "0-0-0", 0), 1, 2)
    reject(ledger, ("WindowRequest", "0-0-0", 1), 3)

    resumed = reader.checkpointed().manager.ledger

    assert resumed.rollouts["0-0-0"].num_rejections == 2
    assert resumed.early_rejections == ledger.early_rejections == {("WindowRequest", "0-0-0", 1): [((1, 3), CAUSE)]}
    assert resumed.num_rejected_records == 3


def test_a_window_that_is_longer_than_its_request_ends_at_the_response_limit() -> None:
    manager = a_manager(a_config(run={"window_length": 4, "max_response_length": 6, "rollouts_per_step": 1}))
    ledger = manager.ledger
    rollout = a_requested_rollout(ledger)
    ledger.add_window((1, 0), a_window("r", num_tokens=4))
    ledger.take([rollout])
    ledger.mark_trained(rollout, rollout.rollout_logprobs[:])
    ledger.request_window(rollout, cohort=1, min_policy_version=0)

    ledger.add_window((1, 1), a_window("r", 1, num_tokens=4))

    assert (len(rollout.response_tokens), len(rollout.token_versions), rollout.is_finished) == (6, 6, True)
