"""The course of a run as its metrics have it, and what is written at its end."""

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.local.metrics import RunMetrics
from services.local.results import SummaryFile, draw_learning_curve, earlier_session, summarize
from tests.support.damage import DAMAGES, damage
from tppo.generation_totals import GenerationTally, GenerationTotals
from tppo.run_folder.paths import RunPaths

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def step(number: int, **values: Any) -> dict[str, Any]:
    line = {"kind": "step", "step": number, "seconds_since_start": 10.0 * number, "tokens/trained": 100 * number}
    return line | {"reward/mean": 0.5, "timing_s/train": 0.25} | values


def evaluation(number: int, accuracy: float) -> dict[str, Any]:
    return {"kind": "evaluation", "step": number, "eval/accuracy": accuracy, "eval/accuracy_stderr": 0.02}


def test_a_resumed_run_replaces_the_steps_behind_its_checkpoint() -> None:
    before = [evaluation(0, 0.4), step(1), step(2, **{"reward/mean": 0.1}), step(3), evaluation(3, 0.6)]
    after = [step(2, **{"reward/mean": 0.9}), evaluation(2, 0.7)]

    metrics = RunMetrics([*before, *after])

    assert [(line["step"], line["reward/mean"]) for line in metrics.steps] == [(1, 0.5), (2, 0.9)]
    assert [(line["step"], line["eval/accuracy"]) for line in metrics.evaluations] == [(0, 0.4), (2, 0.7)]


def test_a_long_run_costs_the_process_that_shows_it_a_hundred_bytes_a_step() -> None:
    metrics = RunMetrics(is_shown_only=True)
    names = [f"some/metric_{number}" for number in range(100)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()

    for number in range(1, 2001):
        metrics.add(json.loads(json.dumps(step(number) | dict.fromkeys(names, 0.1 * number))))

    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown / 2000 < 100
    assert metrics.steps[-1] == {name: value for name, value in step(2000).items() if name != "kind"}


@pytest.mark.parametrize("is_shown_only", [True, False])
def test_steps_that_are_taken_again_leave_once(is_shown_only: bool) -> None:
    metrics = RunMetrics([step(1), step(2), step(3), step(2)], is_shown_only=is_shown_only)

    assert [line["step"] for line in metrics.steps] == [1, 2]


def test_an_evaluation_without_any_score_shows_no_accuracy() -> None:
    unscored = {"kind": "evaluation", "step": 3, "eval/accuracy": None, "eval/accuracy_stderr": None}

    metrics = RunMetrics([evaluation(0, 0.4), unscored])

    assert [line["step"] for line in metrics.evaluations] == [0]


def test_an_evaluation_that_comes_in_late_keeps_its_place() -> None:
    metrics = RunMetrics([evaluation(0, 0.4), step(1), step(2), step(3), evaluation(2, 0.6), evaluation(1, 0.5)])

    assert [line["step"] for line in metrics.evaluations] == [0, 1, 2]
    assert [line["step"] for line in metrics.steps] == [1, 2, 3]


def test_the_summary_has_the_number_of_skipped_prompts() -> None:
    skipping = RunMetrics([step(1, **{"data/skipped_prompts": 3})])

    summaries = [summarize(metrics, GenerationTotals(), seconds_total=1.0) for metrics in (skipping, RunMetrics())]

    assert [summary.skipped_prompts for summary in summaries] == [3, 0]


def test_the_summary_has_accuracies_times_and_occupancy() -> None:
    metrics = RunMetrics([evaluation(0, 0.41), step(1), step(2), evaluation(2, 0.93)])
    totals = GenerationTotals(
        seconds_busy=7.5, num_tokens=9000, num_decode_steps=300, num_active_slot_steps=7200, num_slot_steps=9600
    )

    summary = summarize(metrics, totals, seconds_total=31.25)

    assert (summary.base_accuracy, summary.final_accuracy, summary.steps) == (0.41, 0.93, 2)
    assert (summary.seconds_total, summary.seconds_generation, summary.seconds_training) == (31.25, 7.5, 0.5)
    assert (summary.tokens_generated, summary.decode_steps, summary.slot_occupancy) == (9000, 300, 0.75)


def test_the_summary_has_the_exact_accuracies_of_runs_that_have_them() -> None:
    exact = [{"eval/accuracy_exact": value} for value in (0.4012, 0.9571)]
    metrics = RunMetrics([evaluation(0, 0.41) | exact[0], step(1), step(2), evaluation(2, 0.93) | exact[1]])

    summary = summarize(metrics, GenerationTotals(), seconds_total=1.0)
    without = summarize(RunMetrics([evaluation(0, 0.41)]), GenerationTotals(), seconds_total=1.0)

    assert (summary.base_accuracy_exact, summary.final_accuracy_exact) == (0.4012, 0.9571)
    assert (without.base_accuracy_exact, without.final_accuracy_exact) == (None, None)


def test_the_base_models_accuracy_is_not_taken_for_the_runs() -> None:
    summary = summarize(RunMetrics([evaluation(0, 0.4), step(1)]), GenerationTotals(), seconds_total=1.0)

    assert (summary.base_accuracy, summary.final_accuracy) == (0.4, None)


def test_a_run_that_was_never_evaluated_has_no_accuracy() -> None:
    summary = summarize(RunMetrics([step(1)]), GenerationTotals(), seconds_total=1.0)

    assert (summary.base_accuracy, summary.final_accuracy, summary.slot_occupancy) == (None, None, None)


def test_a_restarted_generator_counts_before_and_after_its_restart() -> None:
    ledger = GenerationTally()
    before = {"num_tokens_generated": 100, "num_decode_steps": 10, "num_slots": 4, "num_active_slot_steps": 30}
    after = {"num_tokens_generated": 7, "num_decode_steps": 1, "num_slots": 4, "num_active_slot_steps": 2}

    ledger.observe("generation-0", 1000.0, before | {"num_tokens_generated": 50, "busy_seconds": 0.5})
    ledger.observe("generation-0", 1000.0, before | {"busy_seconds": 1.0})
    ledger.observe("generation-0", 2000.0, after | {"busy_seconds": 0.25})

    assert ledger.totals() == GenerationTotals(
        seconds_busy=1.25, num_tokens=107, num_decode_steps=11, num_active_slot_steps=32, num_slot_steps=44
    )


def test_a_resumed_run_adds_its_sessions_up(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    totals = GenerationTotals(
        seconds_busy=2.0, num_tokens=500, num_decode_steps=40, num_active_slot_steps=60, num_slot_steps=80
    )
    SummaryFile(paths.summary).write(summarize(RunMetrics([step(1)]), totals, seconds_total=12.5))

    assert earlier_session(paths) == (12.5, totals)
    assert earlier_session(RunPaths(tmp_path / "missing")) == (0.0, GenerationTotals())


def test_a_thread_that_still_writes_the_summary_does_not_disturb_the_last_one(tmp_path: Path) -> None:
    file = SummaryFile(tmp_path / "summary.json")
    under_way, last = (
        summarize(RunMetrics([step(number)]), GenerationTotals(), seconds_total=1.0) for number in (1, 2)
    )

    with ThreadPoolExecutor(8) as threads:
        writing = [threads.submit(file.write, under_way) for _ in range(100)]
        file.write(last, is_last=True)

    assert [one.exception() for one in writing] == [None] * 100
    assert json.loads(file.path.read_bytes())["steps"] == 2


@pytest.mark.parametrize("kind", [*DAMAGES, "missing"])
def test_without_a_usable_summary_the_sessions_are_added_up_from_the_metrics(tmp_path: Path, kind: str) -> None:
    paths = RunPaths(tmp_path)
    SummaryFile(paths.summary).write(summarize(RunMetrics([step(1)]), GenerationTotals(), seconds_total=12.5))
    if kind == "missing":
        paths.summary.unlink()
    else:
        damage(paths.summary, kind)
    counts = [(100, 10), (250, 25), (40, 4), (90, 9)]  # the generators were started again behind the second step
    lines = [
        step(number, **{"generation/num_tokens": tokens, "generation/num_decode_steps": steps})
        for number, (tokens, steps) in enumerate(counts, 1)
    ]
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"foreign": 1}]))

    seconds, totals = earlier_session(paths)

    assert (seconds, totals.num_tokens, totals.num_decode_steps) == (40.0, 250 + 90, 25 + 9)


def test_lines_that_are_no_metrics_are_left_out_of_the_course_of_the_run() -> None:
    foreign: list[dict[str, Any]] = [
        {},
        {"kind": "evaluation"},
        {"kind": "step", "step": "3"},
        {"kind": "step", "step": 3, "reward/mean": []},
    ]

    metrics = RunMetrics([step(1), *foreign, evaluation(1, 0.5), step(2)])

    assert [line["step"] for line in metrics.steps] == [1, 2]
    assert [line["step"] for line in metrics.evaluations] == [1]


def test_the_learning_curve_is_a_picture(tmp_path: Path) -> None:
    metrics = RunMetrics([evaluation(0, 0.4), step(1), step(2), evaluation(2, 0.6)])

    draw_learning_curve(metrics, tmp_path / "curve.png", title="run")

    assert (tmp_path / "curve.png").read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("lines", [[], [step(1)], [evaluation(0, 0.4)], [evaluation(9, 0.4), step(1)]])
def test_the_learning_curve_is_drawn_from_whatever_there_is(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    draw_learning_curve(RunMetrics(lines), tmp_path / "curve.png", title="run")

    assert (tmp_path / "curve.png").exists()
