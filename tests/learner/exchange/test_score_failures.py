"""When the learner gives up on a reward function."""

import pytest

from learner.exchange.score_failures import ScoreFailures
from tppo.rollout import Score, ScoreStatus


def failed(error: str, *, function: str = "mine.py:score", status: ScoreStatus = ScoreStatus.FAILED) -> Score:
    return Score("0-0-0", 0, status, function=function, error=error)


SCORED = Score("0-0-1", 0, ScoreStatus.SCORED, score=1.0, function="mine.py:score")


def failures_after(*scores: Score, limit: int | None = 3, num_before: int = 0) -> ScoreFailures:
    """`num_before` of the scores were in the inbox before this process read it to its end."""
    failures = ScoreFailures(limit)
    for number, score in enumerate(scores):
        if number == num_before:
            failures.are_too_many(is_at_end=True)
        failures.note(score)
    return failures


def test_failures_in_a_row_of_one_cause_are_too_many_whatever_value_they_name() -> None:
    failures = failures_after(failed("KeyError: 'a'"), failed("KeyError: 'b'"), failed("KeyError: 'c'"))

    assert failures.are_too_many(is_at_end=True)
    assert failures.sentence == (
        "reward function 'mine.py:score' has failed 3 times in a row and scored no response: FAILED KeyError: 'c'; "
        "expected a score (reward.max_consecutive_failures); mend it, and continue with --resume --retry-parked"
    )


def test_a_scored_response_begins_the_count_again() -> None:
    broken = failed("KeyError: 'a'")

    assert not failures_after(broken, broken, SCORED, broken, broken).are_too_many(is_at_end=True)


def test_failures_of_different_causes_are_counted_apart() -> None:
    causes = [failed("KeyError: 'a'"), failed("ValueError: no number"), failed("KeyError: 'a'", function="other")]

    assert not failures_after(*causes, *causes).are_too_many(is_at_end=True)
    assert failures_after(*causes, *causes, *causes).are_too_many(is_at_end=True)


@pytest.mark.parametrize("status", [ScoreStatus.TIMED_OUT, ScoreStatus.ABSTAINED])
def test_time_outs_and_abstentions_count_too(status: ScoreStatus) -> None:
    unscored = failed("", status=status)

    assert failures_after(unscored, unscored, unscored).are_too_many(is_at_end=True)


def test_what_was_in_the_inbox_before_a_restart_does_not_count() -> None:
    broken = failed("KeyError: 'a'")

    assert not failures_after(*[broken] * 5, num_before=3).are_too_many(is_at_end=True)
    assert failures_after(*[broken] * 6, num_before=3).are_too_many(is_at_end=True)


def test_a_replay_never_gives_up() -> None:
    assert not failures_after(*[failed("KeyError: 'a'")] * 9, limit=None).are_too_many(is_at_end=True)
