"""What the journal's lines come to."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.dashboard.history.journal import JournalIndex
from tests.dashboard.run_folders import BEGAN, event, last_window, requested, score, trained, window


def journal_of(*lines: Mapping[str, Any], max_rollouts: int = 100) -> JournalIndex:
    journal = JournalIndex(max_rollouts=max_rollouts)
    for place, line in enumerate(lines):
        journal.add((place, dict(line)))
    return journal


CUT = [requested("r"), window("r"), trained(1, ("r", 0))]
ENDED = [requested("r"), last_window("r"), score("r"), trained(1, ("r", 0))]


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (CUT[:1], "requested"),
        (CUT[:2], "ready"),
        (CUT, "trained"),
        ([*CUT, requested("r", 1)], "requested"),
        (ENDED[:2], "scoring"),
        (ENDED[:3], "ready"),
        (ENDED, "retired"),
        ([*ENDED[:2], score("r", None)], "scoring"),
        ([requested("r"), {"kind": "parked", "rollout": "r", "window": 0, "cause": "c"}], "parked"),
        ([requested("r"), {"kind": "dropped", "rollout": "r", "window": 0, "reason": "c"}], "dropped"),
        ([requested("r", evaluation=True), last_window("r"), score("r")], "retired"),
    ],
)
def test_the_lines_of_a_rollout_lead_to_its_state(lines: list[dict[str, Any]], state: str) -> None:
    journal = journal_of(*lines)

    assert journal.rollouts["r"].state == state
    assert +journal.by_state == {state: 1}


def test_windows_add_up_to_a_response() -> None:
    record = journal_of(
        *CUT, requested("r", 1, start=4), last_window("r", 1, tokens=3, versions=[[1, 2], [2, 1]]), trained(3, ("r", 1))
    ).rollouts["r"]

    assert (record.length, len(record.windows), record.trained_steps) == (7, 2, [1, 3])
    assert sorted(record.policy_versions) == [0, 1, 2]
    assert (record.windows[1].generator, record.windows[1].slot, record.windows[1].ended) == (
        "generation-0",
        3,
        BEGAN + 1,
    )


def test_a_duplicate_line_counts_once() -> None:
    once, twice = journal_of(*ENDED), journal_of(*(line for line in ENDED for _ in range(2)))

    assert len(twice.bars) == len(once.bars) == 1
    assert +twice.by_state == {"retired": 1}
    assert len(twice.rollouts["r"].scores) == 1


def test_a_window_requested_again_removes_the_later_ones() -> None:
    journal = journal_of(*CUT, requested("r", 1, start=4), last_window("r", 1), score("r"), requested("r", 0))

    record = journal.rollouts["r"]
    assert (record.state, record.length, record.score, list(record.windows)) == ("requested", 0, None, [0])
    assert [bar.window for bar in journal.bars if not bar.is_obsolete] == [0]


def test_rollouts_of_one_prompt_are_siblings_and_evaluation_is_apart() -> None:
    journal = journal_of(
        requested("a", prompt=4),
        requested("b", prompt=4),
        requested("c", prompt=5),
        requested("d", prompt=4, evaluation=True),
    )

    assert [one.rollout for one in journal.siblings(journal.rollouts["a"])] == ["b"]


def test_those_that_retired_longest_ago_are_forgotten_first() -> None:
    first, second = ([{**line, "rollout": name} for line in ENDED[:3]] + [trained(1, (name, 0))] for name in ("a", "b"))
    journal = journal_of(requested("alive"), *first, *second, requested("new"), max_rollouts=3)

    assert list(journal.rollouts) == ["alive", "b", "new"]
    assert journal.num_forgotten == 1
    assert +journal.by_state == {"requested": 2, "retired": 1}
    assert journal.siblings(journal.rollouts["alive"]) == [journal.rollouts["b"], journal.rollouts["new"]]


def test_with_nobody_retired_the_oldest_is_forgotten() -> None:
    journal = journal_of(*(requested(name) for name in "abc"), max_rollouts=2)

    assert list(journal.rollouts) == ["b", "c"]


def test_the_newest_attempt_scores_a_response() -> None:
    journal = journal_of(*ENDED[:2], score("r", None, error="timed out"), score("r", 0.5, attempt=1))

    record = journal.rollouts["r"]
    assert (record.score, [record.scores[attempt].status for attempt in (0, 1)]) == (0.5, ["FAILED", "SCORED"])


def test_causes_and_reasons_are_counted() -> None:
    parked = [{"kind": "parked", "rollout": name, "cause": cause} for name, cause in zip("abc", "xyy", strict=True)]
    dropped = {"kind": "dropped", "rollout": "d", "reason": "by hand"}
    journal = journal_of(*parked, dropped, dropped)

    assert journal.most_frequent_cause() == "y"
    assert journal.dropped_by_reason == {"by hand": 1}


def test_an_event_has_its_place_as_id() -> None:
    assert [(one["id"], one["text"]) for one in journal_of(requested("r"), event("committed")).events] == [
        (1, "committed")
    ]


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"kind": ["window"]},
        {"kind": "window"},
        {"kind": "window", "rollout": 7},
        {"kind": "window", "rollout": "r", "window": "0", "versions": [[1]], "tokens": None},
        {"kind": "window", "rollout": "r", "window": 0, "versions": [[1, "x"], 3], "tokens": True, "started": "now"},
        {"kind": "score", "rollout": "r", "score": float("nan"), "components": []},
        {"kind": "trained", "rows": [["r"], 3, ["r", []]]},
        {"kind": "trained", "rows": {}},
    ],
)
def test_a_line_that_makes_no_sense_does_no_harm(line: dict[str, Any]) -> None:
    journal = journal_of(line, *ENDED)

    assert journal.rollouts["r"].state == "retired"
    assert journal.rollouts["r"].score == 1.0
