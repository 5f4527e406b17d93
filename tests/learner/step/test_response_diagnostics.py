"""What finished responses show of their values, and the age of what a step builds on."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from learner.algorithm import token_filter
from learner.models.passes.packing import pad_rows
from learner.rollouts.rollout import Rollout
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, gather
from learner.step.measurements import response_diagnostics
from learner.step.measurements.response_diagnostics import COSTS_OF_CUTS, EXPLAINED_VARIANCES
from tests.learner.builders import a_config, a_row


def metrics_of(
    rows: Sequence[Rollout],
    window_values: Sequence[list[float]],
    *,
    algorithm: dict[str, Any] | None = None,
    **run: int,
) -> dict[str, Any]:
    sampled, values = gather(rows), pad_rows([torch.tensor(of_row) for of_row in window_values]).values
    value_mask = token_filter.value_mask(sampled.all_windows_mask(), sampled.is_finished)
    estimates = Estimates(values, values, values, sampled.response_mask, value_mask, num_too_old=0)
    config = a_config(run=run, algorithm={"lam": 0.9} | (algorithm or {}))
    estimators = Estimators(config.algorithm, config.run.window_length)
    max_response_length = config.run.max_response_length
    return dict(
        response_diagnostics.metrics(sampled, estimates, estimators=estimators, max_response_length=max_response_length)
    )


def a_finished_row(score: float, earlier_values: list[float], num_in_window: int) -> Rollout:
    num_earlier = len(earlier_values)
    return a_row(
        [9] * (num_earlier + num_in_window), window_start=num_earlier, score=score, earlier_values=earlier_values
    )


def test_values_of_cut_windows_are_judged_by_the_score_that_came_in_the_end() -> None:
    rows = [a_finished_row(1.0, [1.0, 1.0], 2), a_finished_row(-1.0, [-1.0, -1.0], 2)]

    metrics = metrics_of(rows, [[0.5, 0.5], [0.5, 0.5]], window_length=2, max_response_length=8)

    assert metrics["critic/vf_explained_var_cut"] == pytest.approx(1.0)
    assert metrics["critic/vf_explained_var"] == pytest.approx(0.0)


def test_the_place_in_the_response_is_a_share_of_its_limit() -> None:
    # places 0 | 1 | 2, 3 | 4: right, half right, ignorant, and the wrong way round
    rows = [a_finished_row(sign, [sign, 0.5 * sign, 0.0, 0.0], 1) for sign in (1.0, -1.0)]

    metrics = metrics_of(rows, [[-1.0], [1.0]], window_length=4, max_response_length=8)

    by_position = [metrics[f"critic/vf_explained_var_{place}"] for place in
                   ("first_eighth", "second_eighth", "second_quarter", "second_half")]  # fmt: skip
    assert by_position == pytest.approx([1.0, 0.75, 0.0, -3.0])


def test_the_cost_of_a_cut_is_known_once_the_response_has_finished() -> None:
    # case C09 of the specification: the whole response's advantage behind the cut is .3943
    row = a_finished_row(1.0, [0.2, 0.3, 0.1, 0.5], 3)

    metrics = metrics_of(
        [row],
        [[0.6, 0.45, 0.8]],
        window_length=4,
        max_response_length=8,
        algorithm={"num_ignored_tail_tokens": 2},
    )

    assert metrics["critic/bias_at_cut/mean"] == pytest.approx(-0.3943 * (0.9**3 + 0.9**2) / 2)
    assert metrics["critic/bias_at_cut/mean_abs"] == pytest.approx(0.3943 * (0.9**3 + 0.9**2) / 2)
    assert metrics["critic/border_value_jump/mean"] == pytest.approx(0.1)
    assert metrics["critic/border_value_jump/mean_abs"] == pytest.approx(0.1)


def test_a_step_in_which_nothing_finished_knows_nothing_of_this() -> None:
    metrics = metrics_of([a_row([9, 9])], [[0.1, 0.2]])

    assert metrics == dict.fromkeys(EXPLAINED_VARIANCES + COSTS_OF_CUTS)


def test_responses_of_one_window_have_no_cut_to_judge() -> None:
    metrics = metrics_of([a_finished_row(1.0, [], 2), a_finished_row(-1.0, [], 2)], [[1.0, 1.0], [-1.0, -1.0]])

    assert [metrics[name] for name in ("critic/vf_explained_var_cut", *COSTS_OF_CUTS)] == [None] * 5
    assert metrics["critic/vf_explained_var"] == pytest.approx(1.0)


def test_a_response_that_ended_without_a_token_is_left_out() -> None:
    metrics = metrics_of([a_finished_row(0.0, [], 0), a_finished_row(1.0, [], 1)], [[], [0.5]])

    assert metrics == dict.fromkeys(EXPLAINED_VARIANCES + COSTS_OF_CUTS)  # one token has no variance


def test_prefix_age_looks_at_the_oldest_token_before_the_window() -> None:
    rows = [
        a_row([9] * 4, window_start=2, versions=[3, 3, 5, 5]),
        a_row([9] * 3, window_start=2, versions=[6, 4, 7]),
        a_row([9] * 3, versions=[1, 1, 1]),  # has nothing before its window
    ]

    assert response_diagnostics.prefix_age(rows, 7) == {"prefix_age/mean": 3.5, "prefix_age/max": 4}


def test_without_prefixes_there_is_no_age() -> None:
    assert response_diagnostics.prefix_age([a_row([9])], 7) == {"prefix_age/mean": None, "prefix_age/max": None}
