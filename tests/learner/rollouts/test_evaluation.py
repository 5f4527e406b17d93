"""Evaluation rounds: what they find, and that training does not see them."""

import math
from dataclasses import replace

import pytest

from learner.reporting.metrics_log import evaluation_line
from learner.reporting.trackers.contract import points_of
from learner.rollouts import ledger_state
from learner.rollouts.evaluation import Evaluation, SolutionProbabilities
from learner.rollouts.manager import RolloutManager
from tests.learner.builders import a_config, a_failed_score, a_failed_window, a_manager, a_score, a_window, ending, kept
from tppo.rollout import FinishReason, InboxRecord, Window, WindowRequest, evaluated_step, prompt_of, tokens


def some_evaluation_manager(num_prompts: int = 4, *, samples_per_prompt: int = 1) -> RolloutManager:
    run = {"window_length": 4, "max_response_length": 10, "rollouts_per_step": 2}
    evaluation = {"samples_per_prompt": samples_per_prompt}
    config = a_config(run=run, reward={"max_attempts": 1}, evaluation=evaluation)
    return a_manager(config, num_evaluation_prompts=num_prompts)


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


def test_a_response_that_was_handed_over_goes_on_in_another_window_at_once() -> None:
    manager = some_evaluation_manager(1)
    manager.evaluator.start(3, min_policy_version=3)
    manager.ledger.outbox.clear()
    handed_over = ending(a_window("eval-3-0", num_tokens=4, policy_version=3), FinishReason.CUT)

    assert enter(manager, handed_over) == []
    (rest,) = manager.ledger.outbox
    assert isinstance(rest, WindowRequest)
    assert (rest.key, list(rest.response_tokens)) == (("eval-3-0", 1), [10, 11, 12, 13])
    assert (rest.max_new_tokens, rest.min_policy_version, rest.is_evaluation) == (6, 3, True)
    (found,) = enter(manager, a_window("eval-3-0", 1, num_tokens=2, stops=True), a_score("eval-3-0", 1.0))

    assert (found.accuracy, found.mean_response_length) == (1.0, 6.0)


def test_the_rest_of_a_response_may_be_read_before_its_beginning_was_requested() -> None:
    manager = some_evaluation_manager(1)
    first = ending(a_window("eval-0-0", num_tokens=4), FinishReason.CUT)
    assert enter(manager, first, a_window("eval-0-0", 1, num_tokens=2, stops=True), a_score("eval-0-0", 1.0)) == []

    manager.evaluator.start(0, min_policy_version=0)

    (found,) = manager.evaluator.gather()
    assert found.mean_response_length == 6.0


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
    state = kept(ledger_state.captured(manager))

    restored = a_manager_with_solutions("", "")
    ledger_state.restore(restored, state)
    (found,) = enter(restored, *answered(1, 0.0))

    assert found.accuracy_exact == (0.1 + 1 / 3) / 2
    assert found.exact_seconds == 0.5


def sampled(
    manager: RolloutManager, *scores_of_prompts: list[tuple[float, str]]
) -> list[tuple[InboxRecord, InboxRecord]]:
    """A window and a score for each (score, answer) of each prompt, in a round of step 0."""
    manager.evaluator.start(0, min_policy_version=0)
    names = [(f"eval-0-{n}-{s}", one) for n, given in enumerate(scores_of_prompts) for s, one in enumerate(given)]
    return [
        (a_window(name, num_tokens=3, stops=True), replace(a_score(name, score), answer=answer))
        for name, (score, answer) in names
    ]


def test_each_prompt_is_requested_as_often_as_it_is_sampled_by_names_and_seeds_of_their_own() -> None:
    manager = some_evaluation_manager(2, samples_per_prompt=2)

    manager.evaluator.start(20, min_policy_version=20)

    requests = [request for request in manager.ledger.outbox if isinstance(request, WindowRequest)]
    names = ["eval-20-0-0", "eval-20-0-1", "eval-20-1-0", "eval-20-1-1"]
    assert [request.rollout_id for request in requests] == names
    assert len({request.seed for request in requests}) == 4
    assert [prompt_of(name) for name in names] == ["0", "0", "1", "1"]
    assert [evaluated_step(name) for name in names] == [20] * 4


def test_the_accuracy_of_several_samples_is_a_mean_over_prompts() -> None:
    manager = some_evaluation_manager(2, samples_per_prompt=2)
    records = sampled(manager, [(1.0, "4"), (0.0, "5")], [(0.0, "7"), (0.0, "8")])

    (found,) = enter(manager, *(record for pair in records for record in pair))

    # The prompts' means are 0.5 and 0; their unbiased variance is 0.125, that of the mean of two 0.0625.
    assert (found.accuracy, found.accuracy_stderr) == (0.25, 0.25)
    of_source = found.accuracy_by_source["sums"]
    # 4 beats 5 in no vote: one each, which are level and share the draw; 7 and 8 are wrong whoever wins.
    assert (of_source.mean, of_source.best, of_source.majority) == (0.25, {2: 0.5}, {2: 0.25})


def test_a_prompt_with_too_few_scores_is_left_out_of_best_and_majority_and_lowers_nothing() -> None:
    manager = some_evaluation_manager(2, samples_per_prompt=4)
    records = sampled(manager, [(1.0, "4")] * 3 + [(0.0, "5")], [(1.0, "7")] * 4)
    (*others, (window, _)) = records

    (found,) = enter(manager, *(record for pair in others for record in pair), window, a_failed_score("eval-0-1-3"))

    assert (found.num_scored, found.num_unscored, found.accuracy) == (7, 1, 0.875)
    # Of the first prompt any two of its four responses hold a right one; the second has three scores, all right.
    assert found.accuracy_by_source["sums"].best == {2: 1.0, 4: 1.0}
    # Of its six pairs three agree on 4, and in three 4 and 5 share the draw: (3 + 3 * 0.5) / 6, and 1 for the second.
    assert found.accuracy_by_source["sums"].majority == {2: 0.875, 4: 1.0}


def test_responses_without_answers_have_no_majority() -> None:
    manager = some_evaluation_manager(1, samples_per_prompt=2)
    records = sampled(manager, [(1.0, ""), (0.0, "")])

    (found,) = enter(manager, *(record for pair in records for record in pair))

    assert found.accuracy_by_source["sums"].majority == {}


def test_metrics_have_the_names_of_verl() -> None:
    manager = some_evaluation_manager(1, samples_per_prompt=4)
    records = sampled(manager, [(1.0, "4"), (1.0, "4"), (0.0, "5"), (0.0, "6")])

    (found,) = enter(manager, *(record for pair in records for record in pair))
    line = evaluation_line(found, seconds_since_start=1.0)

    named = {name: value for name, value in line.items() if name.startswith("val-")}
    # Of the six pairs of responses one holds no right one.
    assert named == {
        "val-core/sums/acc/mean@4": 0.5,
        "val-aux/sums/acc/best@2/mean": pytest.approx(5 / 6),
        "val-core/sums/acc/best@4/mean": 1.0,
        # Of the six pairs one agrees on 4; each of four has 4 and another, which are level and share the draw.
        "val-aux/sums/acc/maj@2/mean": pytest.approx((1 + 4 * 0.5) / 6),
        "val-core/sums/acc/maj@4/mean": 1.0,
    }
    assert points_of(line)["val-core/sums/acc/mean@4"] == 0.5


def test_the_first_set_decides_and_each_further_one_is_reported_by_its_name() -> None:
    manager = some_evaluation_manager(3)
    first, second, third = manager.evaluator.prompts
    manager.evaluator.prompts = [first, replace(second, set_name="aime"), replace(third, set_name="aime")]
    manager.evaluator.start(0, min_policy_version=0)

    (found,) = enter(
        manager,
        *answered(0, 0.25, num_tokens=2),
        *answered(1, 1.0, num_tokens=8),
        *answered(2, 0.0, num_tokens=8),
    )

    assert (found.accuracy, found.mean_response_length, found.num_scored) == (0.25, 2.0, 3)
    assert {name: one.mean for name, one in found.accuracy_by_source.items()} == {"sums": 0.25, "aime": 0.5}


def test_a_round_of_several_samples_survives_a_restart_with_its_answers() -> None:
    manager = some_evaluation_manager(1, samples_per_prompt=2)
    (window, score), second = sampled(manager, [(1.0, "4"), (1.0, "4")])
    enter(manager, window, score)
    state = kept(ledger_state.captured(manager))

    restored = some_evaluation_manager(1, samples_per_prompt=2)
    ledger_state.restore(restored, state)
    (found,) = enter(restored, *second)

    assert (found.accuracy, found.accuracy_by_source["sums"].majority) == (1.0, {2: 1.0})
