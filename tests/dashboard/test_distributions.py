"""Lengths and scores in bins, and metrics as a table."""

from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.clients import answer_of, client_of
from tests.dashboard.run_folders import (
    RunFolderBuilder,
    evaluation_line,
    last_window,
    requested,
    score,
    step_line,
    trained,
    window,
)


def response(name: str, step: int, *, tokens: int, value: float | None, **more: Any) -> list[dict[str, Any]]:
    """A response of one window, which the step trained."""
    lines = [requested(name, **more), last_window(name, tokens=tokens, **more)]
    return [*lines, score(name, value, **more), *([] if more else [trained(step, (name, 0))])]


RESPONSES = [
    *response("a", 1, tokens=1, value=0.0),
    *response("b", 2, tokens=4, value=1.0),
    *response("c", 2, tokens=6, value=1.0),
    *response("d", 3, tokens=10, value=None),  # the attempt to score it failed
    *(requested("e"), window("e", tokens=5), trained(2, ("e", 0))),  # a window that was cut
    *(requested("f"), last_window("f", tokens=7)),  # not trained yet
    *response("eval-2-0", 2, tokens=3, value=0.5, evaluation=True),
]


async def distributions(root: Path, query: str) -> Any:
    return await answer_of(root, f"metrics/distributions?{query}")


async def test_responses_that_ended_are_counted_by_length_and_score(run: RunFolderBuilder, root: Path) -> None:
    run.journal(*RESPONSES)

    found = await distributions(root, "bins=5")

    assert (found["from_step"], found["to_step"], found["num_responses"], found["num_scored"]) == (1, 3, 4, 3)
    # Lengths 1, 4, 6, 10 in bins of two tokens; scores 0, 1, 1 in fifths, the last with its upper edge.
    assert found["length"] == {"edges": [1, 3, 5, 7, 9, 11], "counts": [1, 1, 1, 0, 1]}
    assert found["score"]["counts"] == [1, 0, 0, 0, 2]
    assert found["score"]["edges"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize(
    ("query", "counts"),
    [
        ("from_step=2&to_step=2", [1, 1]),
        ("from_step=3", [1]),
        ("to_step=1", [1]),
        ("from_step=4", []),
        ("evaluation=true", [1]),
        ("evaluation=true&from_step=3", []),
    ],
)
async def test_the_responses_of_a_range_of_steps_are_counted(
    run: RunFolderBuilder, root: Path, query: str, counts: list[int]
) -> None:
    run.journal(*RESPONSES)

    found = await distributions(root, query)

    assert [count for count in found["length"]["counts"] if count] == counts


async def test_equal_scores_stand_in_the_middle_of_one_bin(run: RunFolderBuilder, root: Path) -> None:
    run.journal(*response("a", 1, tokens=1, value=0.25), *response("b", 1, tokens=1, value=0.25))

    found = await distributions(root, "")

    assert found["score"] == {"edges": [-0.25, 0.75], "counts": [2]}
    assert found["length"] == {"edges": [1, 2], "counts": [2]}


async def test_scores_as_far_apart_as_floats_can_be_are_counted(run: RunFolderBuilder, root: Path) -> None:
    run.journal(*response("a", 1, tokens=1, value=-1.7e308), *response("b", 1, tokens=1, value=1.7e308))

    assert (await distributions(root, "bins=2"))["score"]["counts"] == [1, 1]


async def test_a_runs_metrics_are_exported_as_csv(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(step_line(1, reward__mean=0.1), step_line(2), step_line(3, **{"odd,name": 1e-7}))
    run.metrics(evaluation_line(2, 0.5))

    async with client_of(root) as client:
        steps = await client.get("/api/v1/metrics/csv")
        evaluations = await client.get("/api/v1/metrics/csv?kind=evaluation")

    assert steps.headers["content-type"].startswith("text/csv")
    assert steps.headers["content-disposition"] == 'attachment; filename="quick-steps.csv"'
    assert steps.text.splitlines() == [
        'step,time,seconds_since_start,"odd,name",reward/mean',
        "1,1800000010,10,,0.1",
        "2,1800000020,20,,",
        "3,1800000030,30,1e-07,",
    ]
    assert evaluations.text.splitlines()[0] == "step,time,seconds_since_start,eval/accuracy,eval/step"


async def test_the_table_of_a_long_run_has_every_line(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(*(step_line(step, reward__mean=0.5) for step in range(1, 12_001)))

    async with client_of(root) as client:
        lines = (await client.get("/api/v1/metrics/csv")).text.splitlines()

    assert (len(lines), lines[-1]) == (12_001, "12000,1800120000,120000,0.5")
