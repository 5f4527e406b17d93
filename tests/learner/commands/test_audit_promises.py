"""An audit finds each broken promise, and only that one, in traces made by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from learner.commands.audit import promises
from learner.commands.audit.evidence import LedgerSnapshot, collect
from learner.commands.audit.promises import Finding, findings, untrained
from learner.persistence.manifest import write_manifest
from learner.reporting.trace_writer import write_trace
from learner.step.measurements.trace_schema import SCHEMA, Header
from tppo.config import ConfigError
from tppo.run_folder.paths import trace_path

Line = dict[str, Any]


def a_token(rollout_id: str, position: int, *, window: int = 0, version: int = 0, **changes: Any) -> Line:
    """Sampled by `version`, and of the window that its step trains; not finished."""
    line = dict.fromkeys(SCHEMA.names)
    return line | {
        "rollout_id": rollout_id,
        "window_index": window,
        "position": position,
        "token_id": 7,
        "policy_version": version,
        "rollout_logprob": -1.0,
        "value": 0.5,
        "in_window": True,
        "policy_mask": True,
        "value_mask": False,
        **changes,
    }


def an_earlier_token(rollout_id: str, position: int) -> Line:
    """Of a window before, in the step in which the response finishes."""
    return a_token(rollout_id, position, in_window=False, window_index=None, policy_mask=False, value_mask=True)


class Run:
    """A clean run of three steps: `a` is cut after two tokens and finishes in the next step; `b` is cut in the third.

    Windows of two tokens, one row a step; the checkpoint is of step 3.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.algorithm, self.mode, self.max_token_lag = "tppo", "streaming", 2
        self.traces: dict[int, list[Line]] = {
            1: [a_token("a", 0), a_token("a", 1, policy_mask=False)],
            2: [
                an_earlier_token("a", 0),
                an_earlier_token("a", 1),
                a_token("a", 2, window=1, version=1, value_mask=True),
            ],
            3: [a_token("b", 0, version=1), a_token("b", 1, version=2)],
        }
        self.metrics: list[Line] = [
            self.metrics_line(1, issued=2, trained=1),
            self.metrics_line(2, issued=3, trained=2),
            self.metrics_line(3, issued=4, trained=3),
        ]
        self.rollouts: list[Line] = [a_rollout("b", "requested", num_tokens=2, window_start=2)]

    def metrics_line(self, step: int, *, issued: int, trained: int, in_flight: int = 1) -> Line:
        num_in_window = sum(line["in_window"] for line in self.traces[step])
        return {
            "kind": "step", "step": step, "tokens/window": num_in_window, "ledger/issued": issued,
            "ledger/trained": trained, "ledger/in_flight": in_flight, "ledger/parked": 0, "ledger/dropped": 0,
        }  # fmt: skip

    def written(self) -> Path:
        for step, lines in self.traces.items():
            header = Header(step, self.algorithm, self.mode, self.max_token_lag)
            write_trace(
                self.folder / "traces",
                pyarrow.Table.from_pylist(lines, schema=SCHEMA.with_metadata(header.metadata())),
            )
        evaluation = {"kind": "evaluation", "step": 0}
        log = "".join(json.dumps(line) + "\n" for line in [evaluation, *self.metrics])
        (self.folder / "metrics.jsonl").write_text(log)
        checkpoint = self.folder / "checkpoints" / "global_step_3"
        checkpoint.mkdir(parents=True)
        (checkpoint / "progress.json").write_text(json.dumps({"step": 3}))
        (checkpoint / "ledger.json").write_text(json.dumps({"rollouts": self.rollouts}))
        write_manifest(checkpoint)
        (self.folder / "checkpoints" / "latest").write_text("global_step_3\n")
        return self.folder

    def broken(self) -> list[Finding]:
        return [finding for finding in findings(collect(self.written())) if not finding.is_kept]


def a_rollout(rollout_id: str, state: str, *, num_tokens: int, window_start: int, is_evaluation: bool = False) -> Line:
    return {
        "rollout_id": rollout_id,
        "state": state,
        "window_start": window_start,
        "is_evaluation": is_evaluation,
        "lengths": {"response_tokens": num_tokens},
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def question_of(promise: Callable[..., Finding], run_: Run) -> str:
    return promise(collect(run_.folder)).question


def test_a_clean_run_keeps_every_promise(run: Run) -> None:
    assert run.broken() == []


def test_a_token_that_trained_the_policy_twice_is_found(run: Run) -> None:
    run.traces[2][0]["policy_mask"] = True  # position 0 of a, which step 1 has trained

    (finding,) = run.broken()

    assert finding.question == question_of(promises.is_any_token_trained_twice, run)
    assert finding.answer == "1 tokens, such as position 0 of a in steps 1 and 2"


def test_the_answer_names_a_system_that_trains_on_tokens_again_by_design(run: Run) -> None:
    run.algorithm = "geppo"
    run.written()

    answer = by_question(run, promises.is_any_token_trained_twice).answer

    assert answer == "no: 4 tokens, each once in its first step; geppo trains it again in later ones, by design"


def test_a_window_in_two_steps_is_found_even_where_nothing_of_it_trained(run: Run) -> None:
    run.traces[3] += [a_token("a", 1, version=1, policy_mask=False)]
    run.metrics[2]["tokens/window"] += 1

    (finding,) = run.broken()

    assert finding.question == question_of(promises.is_any_window_taken_twice, run)
    assert finding.answer == "1, such as 0 of a"


def test_a_response_that_trained_the_value_model_in_two_steps_is_found(run: Run) -> None:
    run.traces[3] += [an_earlier_token("a", place) for place in range(3)]

    (finding,) = run.broken()

    assert finding.question == question_of(promises.is_any_value_trained_twice, run)
    assert finding.answer == "1 twice, such as a"


@pytest.mark.parametrize("num_missing", [1, 2])
def test_a_response_that_trained_the_value_model_without_its_first_tokens_is_found(run: Run, num_missing: int) -> None:
    del run.traces[2][:num_missing]

    (finding,) = run.broken()

    assert finding.answer == "1 in part, such as a"


def test_a_token_older_than_the_bound_is_found_unless_it_was_masked(run: Run) -> None:
    run.max_token_lag = 1
    run.traces[3][0]["policy_version"] = 0  # step 3 trains version 2
    (finding,) = run.broken()
    assert finding.question == question_of(promises.is_any_token_too_old, run)
    assert finding.answer == "in step 3 by 2 steps; the bound is 1"


def test_a_masked_token_may_be_older_than_the_bound(run: Run) -> None:
    run.max_token_lag = 1
    run.traces[3][0] |= {"policy_version": 0, "policy_mask": False}

    assert run.broken() == []


@pytest.mark.parametrize(("mode", "bound"), [("lockstep", 0), ("overlapped", 1)])
def test_a_mode_with_a_bound_of_its_own_is_held_to_it(run: Run, mode: str, bound: int) -> None:
    run.mode = mode
    run.traces[3][0]["policy_version"] = 2 - bound - 1
    run.max_token_lag = 32

    (finding,) = run.broken()

    assert finding.answer == f"in step 3 by {bound + 1} steps; the bound is {bound}"


def test_a_token_of_weights_that_did_not_exist_yet_is_found(run: Run) -> None:
    run.traces[3][1]["policy_version"] = 3

    (finding,) = run.broken()

    assert finding.question == question_of(promises.is_any_token_too_old, run)


def test_a_prefix_that_waited_for_a_step_is_found_in_lockstep(run: Run) -> None:
    run.mode = "lockstep"
    run.traces[3] = [*run.traces.pop(2)[:2], a_token("a", 2, window=1, version=2, value_mask=True)]
    run.traces[2] = [a_token("b", 0, version=1), a_token("b", 1, version=1)]
    run.metrics = [run.metrics_line(step, issued=step + 1, trained=step) for step in (1, 2, 3)]

    (finding,) = run.broken()

    assert finding.question == question_of(promises.is_any_prefix_too_old, run)
    assert finding.answer == "window 1 of a in step 3: its prefix is 2 steps old; the bound is its index"

    (run.folder / "journal.jsonl").write_text(json.dumps({"kind": "parked", "rollout": "a", "window": 1}) + "\n")
    assert by_question(run, promises.is_any_prefix_too_old).is_kept


def test_in_streaming_a_prefix_has_no_bound(run: Run) -> None:
    run.written()

    # a's second window trained version 1 in step 2, and its prefix is of version 0.
    answer = by_question(run, promises.is_any_prefix_too_old).answer

    assert answer == "no: 1 steps at most; no bound in the other modes"


def test_a_response_that_vanished_from_the_ledger_is_found(run: Run) -> None:
    run.rollouts = []

    (finding,) = run.broken()

    assert finding.question == question_of(promises.is_any_response_lost, run)
    assert finding.answer == "1, such as b"


def test_a_response_that_began_after_the_checkpoint_is_not_missed_in_its_ledger(run: Run) -> None:
    run.traces[4] = [a_token("c", 0, version=3)]
    run.metrics.append(run.metrics_line(4, issued=5, trained=4))

    assert run.broken() == []


def test_a_window_that_is_not_accounted_for_is_found(run: Run) -> None:
    run.metrics[1] = run.metrics_line(2, issued=4, trained=2)

    (finding,) = run.broken()

    assert finding.question == question_of(promises.does_the_equation_hold, run)
    assert finding.answer == "not after 1 steps: 2"


def test_a_step_that_metrics_lack_is_found(run: Run) -> None:
    del run.metrics[1]

    (finding,) = run.broken()

    assert finding.answer == "metrics.jsonl has the steps 1, 3; expected 1 to 2"


def test_a_step_without_a_trace_is_found(run: Run) -> None:
    run.written()
    trace_path(run.folder / "traces", 2).unlink()

    assert by_question(run, promises.does_every_step_have_its_trace).answer == "1 steps have none that can be read: 2"


def test_a_file_that_is_no_trace_counts_as_missing(run: Run) -> None:
    run.written()
    trace_path(run.folder / "traces", 2).write_bytes(b"PAR1 is what it claims to be")

    assert by_question(run, promises.does_every_step_have_its_trace).answer == "1 steps have none that can be read: 2"


def test_traces_may_begin_in_the_middle_of_a_run(run: Run) -> None:
    run.written()
    trace_path(run.folder / "traces", 1).unlink()

    assert by_question(run, promises.does_every_step_have_its_trace).answer == "yes: steps 2 to 3"


def test_a_trace_with_other_tokens_than_the_metrics_is_found(run: Run) -> None:
    run.metrics[2]["tokens/window"] = 5

    (finding,) = run.broken()

    assert finding.answer == "metrics.jsonl counts other tokens in steps 3"


def by_question(run: Run, promise: Callable[..., Finding]) -> Finding:
    return promise(collect(run.folder))


def test_what_is_untrained_is_counted_by_its_state(run: Run) -> None:
    run.rollouts = [
        a_rollout("b", "requested", num_tokens=2, window_start=2),
        a_rollout("c", "scoring", num_tokens=3, window_start=2),
        a_rollout("d", "ready", num_tokens=2, window_start=0),
        a_rollout("e", "trained", num_tokens=4, window_start=4),
        a_rollout("eval-0-1", "scoring", num_tokens=9, window_start=0, is_evaluation=True),
    ]

    entries = untrained(collect(run.written()))

    assert [(entry.windows, entry.tokens) for entry in entries] == [
        (1, 0),  # requested
        (1, 1),  # waiting for a score
        (1, 2),  # ready
        (0, 0),  # parked
        (None, 2 + 2 + 4),  # trained by the policy, but b, c and e have not finished
        (None, 1),  # the second token of a
    ]


def test_a_run_before_its_first_checkpoint_can_be_audited(run: Run) -> None:
    run.written()
    shutil.rmtree(run.folder / "checkpoints")

    evidence = collect(run.folder)

    assert evidence.ledger == LedgerSnapshot(step=0)
    assert all(finding.is_kept for finding in findings(evidence))


def test_a_run_without_traces_has_nothing_to_audit(run: Run) -> None:
    run.traces = {}

    with pytest.raises(ConfigError, match=r"has no traces; expected a run with trace\.enabled = true"):
        collect(run.written())


def with_a_tool(run: Run) -> Run:
    """The second token of `a` is a tool's output: it trains nothing, and `tokens/window` does not count it."""
    run.traces[1][1] |= {"is_sampled": False, "policy_mask": False}
    run.traces[2][1] |= {"is_sampled": False, "value_mask": False}
    run.metrics[0]["tokens/window"] -= 1
    return run


def test_a_token_that_was_not_sampled_breaks_no_promise(tmp_path: Path) -> None:
    run = with_a_tool(Run(tmp_path))

    assert run.broken() == []


def test_a_sampled_token_that_trains_no_value_is_found_beside_a_tools_output(tmp_path: Path) -> None:
    run = with_a_tool(Run(tmp_path))
    run.traces[2][0]["value_mask"] = False

    (finding,) = run.broken()

    assert finding.answer == "1 in part, such as a"
