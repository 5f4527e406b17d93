"""The journal: what happened to each window, in the order in which it happened."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from learner.reporting.journal import JournalWriter
from tests.learner.builders import a_failed_score, a_ledger, a_prompt, a_score, a_window
from tppo.rollout import FinishReason, ScoreStatus, VersionSpan, Window, logprobs, tokens


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def a_journal(folder: Path, **options: Any) -> JournalWriter:
    return JournalWriter(folder / "journal.jsonl", clock=lambda: 5.0, **options)


def test_the_events_of_a_response_are_written_in_order(tmp_path: Path) -> None:
    ledger, journal = a_ledger(), a_journal(tmp_path)
    rollout = ledger.start("0-3-0", a_prompt(3), ordinal=7)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)
    ledger.add_window((1, 0), a_window("0-3-0", num_tokens=4, policy_version=2))
    ledger.mark_trained(rollout, logprobs([0.0] * 4))
    ledger.request_window(rollout, cohort=1, min_policy_version=0)
    ledger.add_window((2, 0), a_window("0-3-0", 1, num_tokens=2, stops=True, policy_version=3))
    ledger.add_score((3, 0), a_score("0-3-0", score=1.0))

    journal.note(ledger.occurrences, policy_version=9)

    written = lines(tmp_path / "journal.jsonl")
    assert [line["kind"] for line in written] == ["requested", "window", "requested", "window", "score"]
    assert {line["time"] for line in written} == {5.0}
    assert written[0] == {
        "time": 5.0, "kind": "requested", "rollout": "0-3-0", "window": 0, "prompt": 3, "ordinal": 7, "start": 0,
        "evaluation": False, "version": 9,
    }  # fmt: skip
    assert (written[1]["tokens"], written[1]["versions"], written[1]["finish"]) == (4, [[2, 4]], "length")
    assert not written[1]["is_finished"]
    assert (written[2]["window"], written[2]["start"]) == (1, 4)
    assert (written[3]["finish"], written[3]["is_finished"]) == ("stop", True)
    assert (written[4]["status"], written[4]["score"], written[4]["attempt"]) == ("SCORED", 1.0, 0)


def test_where_an_update_left_the_kv_cache_as_it_was_the_weights_of_the_cache_are_written(tmp_path: Path) -> None:
    ledger = a_ledger()
    rollout = ledger.start("0-3-0", a_prompt(3), ordinal=0)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)
    spans = VersionSpan(2, 1), VersionSpan(3, 2, cache_version=2), VersionSpan(4, 1, cache_version=2)
    ledger.add_window((1, 0), replace(a_window("0-3-0", num_tokens=4), version_spans=spans))

    a_journal(tmp_path).note(ledger.occurrences, policy_version=0)

    line = lines(tmp_path / "journal.jsonl")[1]
    assert (line["versions"], line["cache_versions"]) == ([[2, 1], [3, 2], [4, 1]], [2, 2, 2])


def test_a_window_that_arrived_early_is_written_when_it_is_requested(tmp_path: Path) -> None:
    ledger = a_ledger()
    rollout = ledger.start("0-3-0", a_prompt(3), ordinal=0)
    ledger.add_window((1, 0), a_window("0-3-0"))
    ledger.request_window(rollout, cohort=0, min_policy_version=0)

    a_journal(tmp_path).note(ledger.occurrences, policy_version=0)

    assert [line["kind"] for line in lines(tmp_path / "journal.jsonl")] == ["requested", "window"]


def test_a_failure_is_written_with_its_cause_and_a_duplicate_is_not(tmp_path: Path) -> None:
    ledger = a_ledger(max_score_attempts=1)
    for name in ("a", "b"):
        ledger.request_window(ledger.start(name, a_prompt(), ordinal=0), cohort=0, min_policy_version=0)
    ledger.occurrences.clear()
    failed = Window("a", 0, tokens(), logprobs(), (), FinishReason.FAILED, error="no memory")
    ledger.add_window((1, 0), failed)
    ledger.add_window((2, 0), failed)
    ledger.add_window((3, 0), a_window("b", stops=True))
    ledger.add_score((4, 0), a_failed_score("b", ScoreStatus.TIMED_OUT))

    a_journal(tmp_path).note(ledger.occurrences, policy_version=0)

    written = lines(tmp_path / "journal.jsonl")
    assert [(line["kind"], line["rollout"]) for line in written] == [
        ("window", "a"), ("parked", "a"), ("window", "b"), ("score", "b"), ("parked", "b"),
    ]  # fmt: skip
    assert written[1]["cause"] == "generation failed: no memory"
    assert "TIMED_OUT" in written[4]["cause"]


def test_steps_and_events_are_written(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)

    journal.trained(4, [("a", 0), ("b", 2)])
    journal.event("checkpoint", step=4, text="checkpoint of step 4 committed")

    assert lines(tmp_path / "journal.jsonl") == [
        {"time": 5.0, "kind": "trained", "step": 4, "rows": [["a", 0], ["b", 2]]},
        {"time": 5.0, "kind": "event", "event": "checkpoint", "step": 4, "text": "checkpoint of step 4 committed"},
    ]


def test_a_restarted_learner_appends_to_the_file(tmp_path: Path) -> None:
    a_journal(tmp_path).event("start", step=0, text="one")
    a_journal(tmp_path).event("start", step=4, text="two")
    assert [line["text"] for line in lines(tmp_path / "journal.jsonl")] == ["one", "two"]


def test_lines_that_the_disk_refused_are_an_error_and_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "absent"
    journal = a_journal(folder)

    journal.event("start", step=0, text="one")
    assert journal.last_error.startswith("journal.jsonl: ")
    folder.mkdir()
    journal.event("start", step=0, text="two")

    assert journal.last_error == ""
    assert [line["text"] for line in lines(folder / "journal.jsonl")] == ["one", "two"]
