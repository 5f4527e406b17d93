"""What a timed run says of itself, and which runs a study lacks. No run is started."""

import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.studies.timed_runs import (
    COMMON,
    Outcome,
    Study,
    Variant,
    ends_by_exception,
    outcome_of,
    read_traces,
)
from tests.benchmarks.outcomes import an_outcome

PPO = Variant(name="PPO", overrides=("run.algorithm=ppo",))
TPPO = Variant(name="T-PPO", overrides=(), step_share=1.1)


def a_study(folder: Path) -> Study:
    return Study(folder=folder, variants=(PPO, TPPO), seeds=(101, 102), num_steps=120)


def write_lines(folder: Path, outcomes: Sequence[Outcome]) -> None:
    (folder / "runs.jsonl").write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))


def test_a_run_is_read_at_equal_responses_and_at_equal_rows() -> None:
    outcome = an_outcome(clock=(1.0, 2.0, 4.0), responses=(20, 50, 80), exact=((0, 0.4), (2, 0.8), (3, 0.9)))

    assert outcome.step_of_responses(65) == 2.5
    assert outcome.seconds_at(outcome.step_of_responses(65)) == 3.0
    assert outcome.exact_at(2.5) == pytest.approx(0.85)
    assert outcome.step_of_responses(10) == 0.5
    assert outcome.step_of_responses(1000) == 3.0  # never: its end
    assert outcome.step_at(3.0) == 2.5


def test_the_time_to_an_accuracy_is_read_between_evaluations() -> None:
    outcome = an_outcome(clock=(1.0, 2.0, 4.0), exact=((0, 0.4), (2, 0.8), (3, 0.9)))

    assert outcome.seconds_to(0.6) == pytest.approx(1.0)
    assert outcome.seconds_to(0.85) == pytest.approx(3.0)
    assert outcome.seconds_to(0.95) is None


def test_a_study_lacks_the_runs_without_a_line_seed_after_seed(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    settings = ("evaluation.test_freq=20", "run.total_training_steps=120", "run.algorithm=ppo")
    done = an_outcome(variant="PPO", seed=101, steps=120, overrides=(*COMMON, *settings))
    write_lines(tmp_path, [done, replace(done, seed=102, overrides=("other",))])

    assert [(variant.name, seed) for variant, seed in study.missing()] == [("T-PPO", 101), ("PPO", 102), ("T-PPO", 102)]
    assert study.outcomes() == [done]


def test_the_time_of_the_missing_runs_is_said_beforehand(tmp_path: Path) -> None:
    write_lines(tmp_path, [an_outcome(steps=100, seconds_of_machine=200.0)])

    # 120 and 132 steps, of two seeds each, at two seconds a step
    assert a_study(tmp_path).announcement() == "4 runs, 504 steps together: about 17 minutes by the 1 that are done."


def test_a_line_is_read_as_it_was_written() -> None:
    outcome = an_outcome()

    assert outcome_of(json.loads(json.dumps(asdict(outcome)))) == outcome


def write_trace(folder: Path, step: int, rows: Sequence[tuple[str, int, int, bool, bool]]) -> None:
    names = ("rollout_id", "position", "policy_version", "in_window", "value_mask")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / f"step_{step:06d}.parquet")


def test_traces_say_what_the_policy_read_and_when_a_long_response_first_trained(tmp_path: Path) -> None:
    first = [("long", place, 0, True, False) for place in range(400)]
    then = [("long", place, 1, place >= 400, True) for place in range(600)]
    write_trace(tmp_path, 1, [*first, ("short", 0, 0, True, True)])
    write_trace(tmp_path, 2, then)

    traced = read_traces(tmp_path, clock=(5.0, 9.0))

    assert traced.read_tokens == 400 + 1 + 600  # each pass reads the response from its beginning
    assert traced.first_trained_seconds == 5.0  # sampled by the first weights, trained in step 1


def test_a_stopped_benchmark_leaves_by_an_exception_that_ends_what_it_started() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(SystemExit), ends_by_exception():
        signal.raise_signal(signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) is before
