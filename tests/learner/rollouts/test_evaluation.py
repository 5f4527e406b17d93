"""Evaluation rounds: what they find, and that training does not see them."""

import json
import math
from dataclasses import replace

import pytest

from learner.rollouts import ledger_state
from learner.rollouts.evaluation import Evaluation, SolutionProbabilities
from learner.rollouts.manager import RolloutManager
from tests.learner.builders import a_config, a_failed_score, a_failed_window, a_manager, a_score, a_window
from tppo.rollout import InboxRecord, Window, tokens


def some_evaluation_manager(num_prompts: int = 4) -> RolloutManager:
    run = {"window_length": 4, "max_response_length": 10, "rollouts_per_step": 2}
    return a_manager(a_config(run=run, reward={"max_attempts": 1}), num_evaluation_prompts=num_prompts)


def enter(manager: RolloutManager, *records: InboxRecord) -> list[Evaluation]:
    for number, record in enumerate(records, 1):
        manager.enter((1, number), record)
    return manager.evaluator.gather()


def answered(
    ordinal: int, score: float, *, num_tokens: int = 3, policy_version: int = 0, step: int = 0
) -> tuple[InboxRecord, InboxRecord]:
    name = f"eval-{step}-{ordinal}"
    return a_window(name, num_tokens=num_tokens, stops=True, policy_version=policy_version), a_score(name, score)


def test_a_round_requests_every_prompt_once_with_its_oldest_version() -> None:
    manager = some_evaluation_manager(3)

    manager.evaluator.start(20, min_policy_version=20)

    requests = manager.ledger.outbox
    assert [request.rollout_id for request in requests] == ["eval-20-0", "eval-20-1", "eval-20-2"]
    assert all(request.is_evaluation for request in requests)
    assert [getattr(request, "min_policy_version", None) for request in requests] == [20, 20, 20]


def test_accuracy_is_the_mean_score_with_its_standard_error() -> None:
    manager = some_evaluation_manager(4)
    manager.evaluator.start(0, min_policy_version=0)
    scores_and_lengths = enumerate([(1.0, 2), (0.0, 4), (0.0, 6), (1.0, 8)])

    (found,) = enter(
        manager, *(record for n, (score, size) in scores_and_lengths for record in answered(n, score, num_tokens=size))
    )

    # Unbiased variance of 1, 0, 0, 1 is 4 * 0.25 / 3 = 1/3; the mean's is a quarter of that.
    assert (found.step, found.num_scored, found.num_unscored) == (0, 4, 0)
    assert found.accuracy == 0.5
    assert found.accuracy_stderr == pytest.approx(math.sqrt(1 / 12))
    assert found.mean_response_length == 5.0


def test_what_was_not_scored_is_counted_and_lowers_nothing() -> None:
    manager = some_evaluation_manager(4)
    manager.evaluator.start(0, min_policy_version=0)

    (found,) = enter(
        manager,
        *answered(0, 1.0, num_tokens=4),
        *answered(1, 1.0, num_tokens=6),
        a_failed_window("eval-0-2"),
        a_window("eval-0-3", num_tokens=9, stops=True),
        a_failed_score("eval-0-3"),
    )

    assert (found.num_scored, found.num_unscored) == (2, 2)
    assert (found.accuracy, found.accuracy_stderr, found.mean_response_length) == (1.0, 0.0, 5.0)


def test_a_round_without_any_score_has_no_accuracy() -> None:
    manager = some_evaluation_manager(1)
    manager.evaluator.start(0, min_policy_version=0)

    (found,) = enter(manager, a_failed_window("eval-0-0"))

    assert (found.num_scored, found.num_unscored) == (0, 1)
    assert (found.accuracy, found.accuracy_stderr) == (None, None)
    assert (found.oldest_policy_version, found.newest_policy_version) == (-1, -1)


def test_a_round_reports_which_versions_sampled_it() -> None:
    manager = some_evaluation_manager(2)
    manager.evaluator.start(0, min_policy_version=3)

    (found,) = enter(manager, *answered(0, 1.0, policy_version=5), *answered(1, 1.0, policy_version=3))

    assert (found.oldest_policy_version, found.newest_policy_version) == (3, 5)


def test_a_round_is_over_only_when_every_prompt_is_scored_or_parked() -> None:
    manager = some_evaluation_manager(2)
    manager.evaluator.start(0, min_policy_version=0)

    assert enter(manager, *answered(0, 1.0)) == []
    assert manager.evaluator.is_under_way
    assert len(enter(manager, *answered(1, 0.0))) == 1
    assert not manager.evaluator.is_under_way


def test_two_rounds_at_once_do_not_mix() -> None:
    manager = some_evaluation_manager(1)
    manager.evaluator.start(0, min_policy_version=0)
    manager.evaluator.start(20, min_policy_version=20)

    later, earlier = enter(manager, *answered(0, 1.0, step=20)), enter(manager, *answered(0, 0.0, step=0))

    assert [(found.step, found.accuracy) for found in later + earlier] == [(20, 1.0), (0, 0.0)]


def test_a_round_that_was_started_is_not_started_again() -> None:
    manager = some_evaluation_manager(1)
    manager.evaluator.start(0, min_policy_version=0)
    manager.evaluator.start(0, min_policy_version=0)
    assert len(enter(manager, *answered(0, 1.0))) == 1

    manager.evaluator.start(0, min_policy_version=0)

    assert sum(request.is_evaluation for request in manager.ledger.outbox if hasattr(request, "window_index")) == 1


def test_evaluation_rows_never_make_a_training_step_nor_count_as_issued() -> None:
    manager = some_evaluation_manager(4)
    manager.evaluator.start(0, min_policy_version=0)
    enter(manager, *(record for ordinal in range(4) for record in answered(ordinal, 1.0)))

    assert not manager.scheduler.next_batch(0)
    assert not manager.ledger.ready
    assert manager.ledger.conservation().issued == 0


def test_a_window_before_its_round_begins_is_kept_and_one_after_its_end_is_a_duplicate() -> None:
    manager = some_evaluation_manager(1)
    window, score = answered(0, 1.0)
    assert enter(manager, window, score) == []

    manager.evaluator.start(0, min_policy_version=0)
    (found,) = manager.evaluator.gather()
    assert enter(manager, window, score) == []

    assert found.accuracy == 1.0
    assert manager.ledger.duplicates == {"window": 1, "score": 1}


def test_an_empty_response_is_scored_as_it_is() -> None:
    manager = some_evaluation_manager(1)
    manager.evaluator.start(0, min_policy_version=0)
    empty = a_window("eval-0-0", num_tokens=0)
    assert isinstance(empty, Window)

    (found,) = enter(manager, empty, a_score("eval-0-0", 0.0))

    assert (found.accuracy, found.mean_response_length) == (0.0, 0.0)


def test_without_evaluation_prompts_there_is_no_round() -> None:
    manager = some_evaluation_manager(0)

    manager.evaluator.start(0, min_policy_version=0)

    assert not manager.evaluator.is_under_way


def a_manager_with_solutions(*groups: str) -> RolloutManager:
    manager = some_evaluation_manager(len(groups))
    manager.evaluator.prompts = [
        replace(prompt, solution=tokens([4, 1]), group=group)
        for prompt, group in zip(manager.evaluator.prompts, groups, strict=True)
    ]
    return manager


def test_exact_accuracy_is_the_mean_probability_of_the_worked_solutions_of_each_group_too() -> None:
    manager = a_manager_with_solutions("k_to_20", "k_above_20", "k_to_20")
    manager.evaluator.start(20, min_policy_version=20)
    manager.evaluator.add_solutions(20, SolutionProbabilities([0.5, 0.1, 0.9], seconds=1.5))

    (found,) = enter(
        manager, *(record for n, score in enumerate([1.0, 0.0, 0.0]) for record in answered(n, score, step=20))
    )

    # (0.5 + 0.1 + 0.9) / 3, and (0.5 + 0.9) / 2 of the first group.
    assert found.accuracy_exact == pytest.approx(0.5)
    assert found.accuracy_exact_by_group == pytest.approx({"k_to_20": 0.7, "k_above_20": 0.1})
    assert found.accuracy_by_group == {"k_to_20": 0.5, "k_above_20": 0.0}
    assert found.exact_seconds == 1.5


def test_a_round_with_solutions_is_over_only_when_their_probabilities_are_there() -> None:
    manager = a_manager_with_solutions("")
    manager.evaluator.start(0, min_policy_version=0)
    assert manager.evaluator.awaits_solutions(0)

    assert enter(manager, *answered(0, 1.0)) == []
    manager.evaluator.add_solutions(0, SolutionProbabilities([0.25], seconds=0.0))
    (found,) = manager.evaluator.gather()

    assert (found.accuracy_exact, found.accuracy_exact_by_group) == (0.25, {})
    assert not manager.evaluator.awaits_solutions(0)


def test_prompts_without_solutions_have_no_exact_accuracy() -> None:
    manager = some_evaluation_manager(1)
    manager.evaluator.start(0, min_policy_version=0)

    (found,) = enter(manager, *answered(0, 1.0))

    assert not manager.evaluator.awaits_solutions(0)
    assert (found.accuracy_exact, found.exact_seconds) == (None, None)


def test_probabilities_of_a_round_under_way_survive_a_restart() -> None:
    manager = a_manager_with_solutions("", "")
    manager.evaluator.start(0, min_policy_version=0)
    manager.evaluator.add_solutions(0, SolutionProbabilities([0.1, 1 / 3], seconds=0.5))
    enter(manager, *answered(0, 1.0))
    kept = ledger_state.captured(manager)

    restored = a_manager_with_solutions("", "")
    ledger_state.restore(restored, replace(kept, plain=json.loads(json.dumps(kept.plain))))
    (found,) = enter(restored, *answered(1, 0.0))

    assert found.accuracy_exact == (0.1 + 1 / 3) / 2
    assert found.exact_seconds == 0.5
