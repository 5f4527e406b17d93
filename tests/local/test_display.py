"""What the user sees while a run goes on and when it has ended."""

import io
from typing import Any

import pytest
from rich.console import Console

from services.local.console.display import (
    OVER_SECONDS,
    AlertNotes,
    PlainDisplay,
    RunOverview,
    closing_table,
    live_table,
    overview_of,
    plain_line,
)
from services.local.metrics import RunMetrics
from services.local.results import summarize
from services.local.supervision.child import ChildState
from tppo.generation_totals import GenerationTotals

LINES: list[dict[str, Any]] = [
    {"kind": "evaluation", "step": 0, "eval/accuracy": 0.41, "eval/accuracy_stderr": 0.022},
    {"kind": "step", "step": 1, "seconds_since_start": 2.0, "tokens/trained": 1000, "reward/mean": 0.25},
    {
        "kind": "step",
        "step": 2,
        "seconds_since_start": 4.0,
        "tokens/trained": 4000,
        "reward/mean": 0.5,
        "response_length/mean": 88.6,
        "windows/in_flight": 64,
        "policy_lag/mean": 0.875,
    },
    {"kind": "evaluation", "step": 2, "eval/accuracy": 0.6, "eval/accuracy_stderr": 0.021},
]


def overview(lines: list[dict[str, Any]], **states: ChildState) -> RunOverview:
    return overview_of(RunMetrics(lines), states, total_steps=60, address="http://127.0.0.1:8265")


def rendered(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_line_shows_the_course_of_the_run() -> None:
    line = plain_line(overview(LINES, learner=ChildState.RUNNING))

    assert line == (
        "step 2/60 | reward 0.500 | accuracy 0.410 ± 0.022 -> 0.600 ± 0.021 | response length 89 | tokens/s 1,500"
        " | windows in flight 64 | policy lag 0.88"
    )


def test_without_an_evaluation_before_the_first_step_there_is_no_course_of_the_accuracy() -> None:
    assert " | accuracy 0.600 ± 0.021 | " in plain_line(overview(LINES[1:]))


def test_a_run_that_has_not_begun_shows_only_what_is_known() -> None:
    assert plain_line(overview([])) == "step 0/60"


def test_until_the_first_step_the_learner_says_what_it_waits_for() -> None:
    waiting = "evaluation of the base model"

    before = overview_of(RunMetrics(LINES[:1]), {}, total_steps=60, waiting_for=waiting)
    after = overview_of(RunMetrics(LINES), {}, total_steps=60, waiting_for=waiting)

    assert plain_line(before) == "step 0/60 | accuracy 0.410 ± 0.022 | waiting for evaluation of the base model"
    assert waiting in rendered(live_table(before, title=""))
    assert waiting not in plain_line(after)


def test_processes_that_load_say_what_and_since_when() -> None:
    loading = {"generation-0": "loading the model since 12:03:04"}

    begun = overview_of(RunMetrics(), {"generation-0": ChildState.RUNNING}, total_steps=60, loading=loading)

    assert plain_line(begun) == "step 0/60 | generation-0: loading the model since 12:03:04"
    assert "loading the model since 12:03:04" in rendered(live_table(begun, title=""))


def test_processes_in_trouble_are_named() -> None:
    states = {"learner": ChildState.RUNNING, "reward": ChildState.BACKING_OFF}

    assert plain_line(overview([], **states)) == "step 0/60 | reward: crashed, restarting"


def test_the_table_shows_the_address_of_the_status_page() -> None:
    text = rendered(live_table(overview(LINES, generation=ChildState.BACKING_OFF), title="T-PPO: run"))

    assert "http://127.0.0.1:8265" in text
    assert "2/60" in text
    assert "crashed, restarting" in text


def test_the_closing_table_shows_accuracy_before_and_after() -> None:
    summary = summarize(RunMetrics(LINES), GenerationTotals(num_tokens=12345), seconds_total=75.4)

    text = rendered(closing_table(summary, {"summary": "runs/run/summary.json"}))

    for fact in ("0.410 ± 0.022", "0.600 ± 0.021", "12,345", "75", "runs/run/summary.json"):
        assert fact in text


def test_the_closing_table_shows_exact_accuracies_where_there_are_some() -> None:
    exact = {"eval/accuracy_exact": 0.9571}
    with_exact = summarize(RunMetrics([line | exact for line in LINES]), GenerationTotals(), seconds_total=1.0)
    without = summarize(RunMetrics(LINES), GenerationTotals(), seconds_total=1.0)

    assert "0.9571 -> 0.9571" in rendered(closing_table(with_exact, {}))
    assert "exact" not in rendered(closing_table(without, {}))


def test_the_closing_table_shows_skipped_prompts_where_there_are_some() -> None:
    lines = [line | {"data/skipped_prompts": 12} for line in LINES]
    skipping = summarize(RunMetrics(lines), GenerationTotals(), seconds_total=1.0)
    whole = summarize(RunMetrics(LINES), GenerationTotals(), seconds_total=1.0)

    assert "12 (longer than run.max_prompt_length)" in rendered(closing_table(skipping, {}))
    assert "skipped" not in rendered(closing_table(whole, {}))


def test_lines_are_written_when_something_changed_and_not_too_often() -> None:
    now = 0.0
    written: list[str] = []
    display = PlainDisplay(written.append, clock=lambda: now)

    display.show(overview([]))  # the first is always news
    now = 1.0
    display.show(overview(LINES[:2]))  # news, but too soon
    now = 2.5
    display.show(overview(LINES[:2]))
    now = 10.0
    display.show(overview(LINES[:2]))  # nothing new
    now = 18.0
    display.show(overview(LINES[:2]))  # nothing for 15 s: a line all the same

    assert [line.split(" | ")[0] for line in written] == ["step 0/60", "step 1/60", "step 1/60"]


class AlertConsole:
    """Alert notes, what they wrote, and their clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.notes = AlertNotes(self.lines.append, clock=lambda: self.now)

    def observe(self, *texts: str, key: str = "no_step:", is_complete: bool = True) -> None:
        self.notes.observe(
            [{"key": key, "severity": "warning", "text": text} for text in texts], is_complete=is_complete
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_an_alert_is_written_when_it_starts_and_when_it_is_over() -> None:
    seen = AlertConsole()
    for seconds in range(60, 90):
        seen.observe(f"No training step for {seconds} s.")
        seen.wait(1.0)
    for _ in range(20):
        seen.observe()
        seen.wait(1.0)

    assert seen.lines == ["warning: No training step for 60 s.", "over: No training step for 60 s."]


def test_an_alert_that_wavers_is_written_once() -> None:
    seen = AlertConsole()
    for _ in range(10):
        seen.observe("The reward falls.")
        seen.wait(OVER_SECONDS / 2)
        seen.observe()
        seen.wait(OVER_SECONDS / 4)

    assert seen.lines == ["warning: The reward falls."]


def test_no_alert_is_over_while_they_may_not_be_all() -> None:
    seen = AlertConsole()
    seen.observe("Redis does not answer.", is_complete=False)
    seen.wait(10 * OVER_SECONDS)
    seen.observe(is_complete=False)
    before = list(seen.lines)
    seen.observe()

    assert before == ["warning: Redis does not answer."]
    assert seen.lines[1:] == ["over: Redis does not answer."]


def test_an_alert_is_one_line_without_control_characters() -> None:
    seen = AlertConsole()
    seen.observe("KeyError: \x1b[2Jboom\n\n  in a function")

    assert seen.lines == ["warning: KeyError: [2Jboom in a function"]


@pytest.mark.parametrize("alerts", [None, "text", [None, 7, {}, {"key": "a", "severity": 1, "text": "x"}]])
def test_what_is_no_alert_is_left_out(alerts: object) -> None:
    seen = AlertConsole()
    seen.notes.observe(alerts, is_complete=True)

    assert seen.lines == []


def test_nothing_is_an_alert_while_the_run_ends() -> None:
    seen = AlertConsole()
    seen.notes.stop()
    seen.observe("Redis does not answer.", is_complete=False)

    assert seen.lines == []
