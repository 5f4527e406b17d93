"""What the addresses answer about rollouts, windows and values."""

from pathlib import Path
from typing import Any

import pytest

from services.dashboard.live.source import Observation
from tests.dashboard.clients import NOW, FixedSource, answer_of, client_of, process
from tests.dashboard.run_folders import (
    RunFolderBuilder,
    complete_run,
    last_window,
    requested,
    score,
    step_line,
    trained,
    window,
)

ROLLOUTS = [
    *(requested("a", prompt=1), last_window("a", tokens=9, time=2), score("a", 0.25, time=3)),
    *(requested("b", prompt=1), window("b", tokens=5, time=4)),
    requested("c", prompt=2, evaluation=True, time=5),
]
TRAINED = [
    *(requested("a"), last_window("a"), trained(4, ("a", 0))),
    *(requested("b"), window("b"), trained(4, ("b", 0))),
    *(requested("b", 1, start=4), last_window("b", 1), trained(7, ("b", 1))),
    requested("c"),
    *(requested("eval-4-0", evaluation=True), last_window("eval-4-0", evaluation=True)),
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["c", "b", "a"]),
        ("sort=updated_at", ["a", "b", "c"]),
        ("sort=-length", ["a", "b", "c"]),
        ("state=ready", ["b", "a"]),
        ("state=ready&min_score=0.2", ["a"]),
        ("max_score=0.2", []),
        ("prompt=1&max_length=5", ["b"]),
        ("min_length=6", ["a"]),
        ("evaluation=true", ["c"]),
        ("limit=1&offset=1", ["b"]),
    ],
)
async def test_rollouts_are_filtered_and_sorted(
    run: RunFolderBuilder, root: Path, query: str, names: list[str]
) -> None:
    run.journal(*ROLLOUTS)

    assert [one["rollout"] for one in (await answer_of(root, f"rollouts?{query}"))["items"]] == names


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("step=4", ["a", "b", "eval-4-0"]),
        ("step=4&evaluation=false", ["a", "b"]),
        ("step=7", ["b"]),
        ("step=0", []),
    ],
)
async def test_the_rollouts_of_a_step_are_found(
    run: RunFolderBuilder, root: Path, query: str, names: list[str]
) -> None:
    run.journal(*TRAINED)

    found = await answer_of(root, f"rollouts?{query}&sort=prompt")

    assert sorted(one["rollout"] for one in found["items"]) == names


async def test_a_page_has_the_total(run: RunFolderBuilder, root: Path) -> None:
    run.journal(*ROLLOUTS)

    assert (await answer_of(root, "rollouts?limit=1"))["total"] == 3


async def test_a_rollout_has_its_tokens(root: Path) -> None:
    complete_run(root / "quick")

    rollout = await answer_of(root, "rollouts/0-0-0")

    assert (rollout["prompt_text"], rollout["ground_truth"]) == ("one plus one", "eno sulp eno")
    assert (rollout["text"], rollout["tokens"]["text"]) == ("<b> a b end", ["<b>", " a", " b", " end"])
    # The first window was cut; what it earned is known from the trace of the step that took the last one.
    assert (rollout["tokens"]["window"], rollout["tokens"]["return"]) == ([0, 0, 1, 1], [1.0] * 4)
    assert rollout["tokens"]["policy_mask"] == rollout["tokens"]["value_mask"] == [True] * 4
    assert (rollout["tokens_missing"], [one["step"] for one in rollout["windows"]]) == ("", [1, 2])
    assert (rollout["score"]["score"], rollout["score"]["components"]) == (1.0, {"exact": 1.0})
    assert [one["rollout"] for one in rollout["siblings"]] == ["0-0-1"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([requested("r"), last_window("r")], "no window of it has been trained yet"),
        ([requested("r"), last_window("r"), trained(7, ("r", 0))], "the traces of its steps are not there"),
        ([requested("r", evaluation=True), last_window("r", evaluation=True)], "evaluation trains nothing"),
    ],
)
async def test_missing_tokens_have_a_reason(run: RunFolderBuilder, root: Path, lines: Any, reason: str) -> None:
    run.journal(*lines)

    rollout = await answer_of(root, "rollouts/r")

    assert rollout["tokens"] is None
    assert reason in rollout["tokens_missing"]


async def test_a_trace_that_is_gone_leaves_the_other_windows(root: Path) -> None:
    run = complete_run(root / "quick")
    (run.path / "traces" / "step_000002.parquet").unlink()

    rollout = await answer_of(root, "rollouts/0-0-0")

    assert rollout["tokens"]["position"] == [0, 1]
    assert "2 of 4 tokens" in rollout["tokens_missing"]


async def test_an_unknown_rollout_is_a_problem(run: RunFolderBuilder, root: Path) -> None:
    async with client_of(root) as client:
        assert (await client.get("/api/v1/rollouts/nobody")).status_code == 404


async def test_windows_are_bars_between_steps(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(step_line(1), step_line(2))
    run.journal(requested("a"), last_window("a", time=5), score("a", time=6), requested("b"), window("b", time=15))

    everything = await answer_of(root, "windows")
    late = await answer_of(root, "windows?since=1800000012&until=1800000025")

    assert [(bar["rollout"], bar["slot"], bar["finish"], bar["score"]) for bar in everything["bars"]] == [
        ("a", 3, "stop", 1.0),
        ("b", 3, "length", None),
    ]
    assert ([bar["rollout"] for bar in late["bars"]], late["steps"]) == (["b"], [{"step": 2, "time": 1_800_000_020}])
    assert everything["slots"] == {"generation-0": 4}


async def test_a_requested_window_is_a_running_bar(run: RunFolderBuilder, root: Path) -> None:
    run.journal(requested("a", time=5))
    source = FixedSource(Observation(now=NOW, presences=[process("generation", num_slots=32)]))

    windows = await answer_of(root, "windows", source)

    assert [(bar["rollout"], bar["started"], bar["ended"]) for bar in windows["bars"]] == [("a", 1_800_000_005, None)]
    assert windows["slots"] == {"generation-0": 32}


async def test_a_running_bar_stands_in_the_slot_that_its_generator_names(run: RunFolderBuilder, root: Path) -> None:
    run.journal(requested("a", time=5), requested("b", time=6))
    reported = {"slot": 3, "rollout_id": "b", "window_index": 0, "started_at": 1_800_000_007.5, "num_tokens": 40}
    generator = process("generation", num_slots=32, running=[reported, "nonsense"])

    bars = (await answer_of(root, "windows", FixedSource(Observation(now=NOW, presences=[generator]))))["bars"]

    assert [(bar["rollout"], bar["generator"], bar["slot"]) for bar in bars] == [
        ("a", "", None),
        ("b", "generation-0", 3),
    ]
    assert (bars[1]["started"], bars[1]["tokens"], bars[1]["ended"]) == (1_800_000_007.5, 40, None)


async def test_the_newest_bars_are_kept_where_there_are_too_many(run: RunFolderBuilder, root: Path) -> None:
    run.journal(*(window(name, time=time) for time, name in enumerate("abc")))

    assert [bar["rollout"] for bar in (await answer_of(root, "windows?limit=2"))["bars"]] == ["b", "c"]


async def test_values_are_shown_against_returns(root: Path) -> None:
    complete_run(root / "quick")

    critic = await answer_of(root, "critic")

    assert critic["step"] == 2
    assert critic["points"]["return"] == [1.0] * 4
    assert critic["points"]["is_finished"] == [False, False, True, True]


async def test_a_step_without_a_trace_is_a_problem(run: RunFolderBuilder, root: Path) -> None:
    async with client_of(root) as client:
        answers = [await client.get(f"/api/v1/critic{query}") for query in ("", "?step=7")]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert "no trace of step 7" in answers[1].json()["detail"]
