"""What a step's trace says of each token, and the files that keep it."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from learner.persistence.run_identity import begin_incarnation
from learner.reporting.trace_writer import TraceWriter, write_trace
from learner.rollouts.rollout import Rollout
from learner.step.measurements.trace_schema import SCHEMA, Header
from tests.learner.builders import a_row
from tests.learner.tiny_models import TinyTrainer, a_network, a_step_config, padded_logprobs, padded_values, some_rows
from tests.support.waiting import DEADLINE_SECONDS
from tppo.run_folder.paths import trace_files
from tppo.streams.fence import FencedError

POLICY_COLUMNS = ("old_logprob", "ratio", "is_clipped", "advantage")


def traced_step(rows: list[Rollout], *, policy_version: int = 0, **sections: dict[str, Any]) -> pyarrow.Table:
    trainer = TinyTrainer(a_step_config(trace={"enabled": True}, **sections))
    table = trainer.step(rows, policy_version=policy_version).trace
    assert table is not None
    return table


def lines_of(table: pyarrow.Table, rollout_id: str) -> list[dict[str, Any]]:
    return [line for line in table.to_pylist() if line["rollout_id"] == rollout_id]


def named_rows() -> list[Rollout]:
    """`some_rows`: right at once, cut, wrong in its second window, cut in its second window."""
    rows = some_rows()
    for name, row in zip(("right", "cut", "wrong", "cut again"), rows, strict=True):
        row.rollout_id = name
    return rows


def test_a_cut_response_shows_the_tokens_of_its_window_and_a_finished_one_all_of_them() -> None:
    table = traced_step(named_rows())

    shown = {
        name: [line["position"] for line in lines_of(table, name)] for name in ("right", "cut", "wrong", "cut again")
    }
    assert shown == {
        "right": [0, 1, 2, 3],
        "cut": [0, 1, 2, 3, 4, 5],
        "wrong": [0, 1, 2, 3, 4, 5, 6, 7, 8],
        "cut again": [6, 7, 8, 9, 10, 11],
    }
    wrong = lines_of(table, "wrong")
    assert [line["in_window"] for line in wrong] == [False] * 6 + [True] * 3
    assert [line["window_index"] for line in wrong] == [None] * 6 + [1] * 3
    assert [line["token_id"] for line in wrong] == [3, 3, 17, 21, 9, 14, 5, 29, 1]


def test_masks_say_which_model_a_token_trained() -> None:
    table = traced_step(named_rows(), algorithm={"num_ignored_tail_tokens": 2})

    masks = {name: [(line["policy_mask"], line["value_mask"]) for line in lines_of(table, name)]
             for name in ("cut", "wrong")}  # fmt: skip
    assert masks["cut"] == [(True, False)] * 4 + [(False, False)] * 2
    assert masks["wrong"] == [(False, True)] * 6 + [(True, True)] * 3


def test_a_token_without_policy_training_has_no_ratio_and_a_cut_response_no_return() -> None:
    table = traced_step(named_rows(), algorithm={"num_ignored_tail_tokens": 2})

    tail, earlier = lines_of(table, "cut")[-1], lines_of(table, "wrong")[0]
    assert [tail[name] for name in ("ratio", "is_clipped", "advantage", "return")] == [None] * 4
    assert tail["old_logprob"] is not None
    assert tail["raw_advantage"] == 0.0  # the last token before a cut, by "hold"
    assert [earlier[name] for name in (*POLICY_COLUMNS, "raw_advantage")] == [None] * 5


def test_returns_are_discounted_by_the_distance_to_the_end() -> None:
    table = traced_step(named_rows(), algorithm={"gamma": 0.5})

    assert [line["return"] for line in lines_of(table, "right")] == [0.125, 0.25, 0.5, 1.0]


def test_log_probabilities_and_values_are_those_before_the_update() -> None:
    rows = named_rows()
    rows[2].values[:] = type(rows[2].values)("f", [0.25] * 6)  # predicted when its first window was trained
    logprobs, values = padded_logprobs(a_network("policy"), rows), padded_values(a_network("value"), rows)

    lines = lines_of(traced_step(rows), "wrong")

    assert [line["old_logprob"] for line in lines[6:]] == pytest.approx(logprobs[2][6:].tolist(), abs=1e-5)
    assert [line["value"] for line in lines] == pytest.approx([0.25] * 6 + values[2][6:].tolist(), abs=1e-5)
    assert {line["rollout_logprob"] for line in lines} == {-2.0}


def padded_copy(network: Any) -> Any:
    """The same weights in a network that takes padded rows."""
    copy = a_network("policy")
    copy.load_state_dict(network.state_dict())
    return copy


def test_the_ratio_is_that_of_the_last_pass() -> None:
    rows = named_rows()
    before = padded_logprobs(a_network("policy"), rows)
    updated = TinyTrainer(a_step_config(actor={"lr": 1e-2}))
    updated.step(named_rows(), policy_version=0)
    after = padded_logprobs(padded_copy(updated.policy.network), rows)

    of_two_passes = traced_step(rows, actor={"lr": 1e-2, "ppo_epochs": 2})
    of_one_pass = traced_step(named_rows(), actor={"lr": 1e-2})

    expected = [math.exp(new - old) for new, old in zip(after[0].tolist(), before[0].tolist(), strict=True)]
    assert [line["ratio"] for line in lines_of(of_two_passes, "right")] == pytest.approx(expected, rel=1e-4)
    assert [line["ratio"] for line in lines_of(of_one_pass, "right")] == [1.0] * 4


def test_a_token_is_clipped_where_its_ratio_has_left_the_range_in_the_advantages_direction() -> None:
    table = traced_step(named_rows(), actor={"lr": 3e-2, "ppo_epochs": 3})

    trained = [line for line in table.to_pylist() if line["policy_mask"] and line["raw_advantage"] != 0]
    expected = [
        line["ratio"] > 1.28 if line["raw_advantage"] > 0 else line["ratio"] < 0.8 or line["ratio"] > 10
        for line in trained
    ]
    assert [line["is_clipped"] for line in trained] == expected
    assert any(expected)


def test_while_the_value_model_warms_up_no_token_trains_the_policy() -> None:
    table = traced_step(named_rows(), policy_version=3, critic={"warmup_steps": 4})

    assert set(table["policy_mask"].to_pylist()) == {False}
    assert all(table[name].null_count == len(table) for name in POLICY_COLUMNS)
    assert Header.of(table.schema) == Header(step=4, algorithm="tppo", mode="lockstep", max_token_lag=32)


def test_with_the_likelihood_of_whole_responses_each_line_keeps_its_own_token() -> None:
    rows = named_rows()
    rows[2].score = 1.0
    logprobs = padded_logprobs(a_network("policy"), rows)

    lines = lines_of(traced_step(rows, algorithm={"lm_loss_weight": 0.1}), "wrong")

    assert [line["old_logprob"] for line in lines[6:]] == pytest.approx(logprobs[2][6:].tolist(), abs=1e-5)


def test_a_response_that_ended_without_a_token_leaves_no_line() -> None:
    empty = a_row([], score=0.0)
    empty.rollout_id = "empty"

    assert lines_of(traced_step([*named_rows(), empty]), "empty") == []


def a_table(step: int) -> pyarrow.Table:
    return traced_step(named_rows(), policy_version=step - 1)


async def written(folder: Path, tables: list[pyarrow.Table], *, through_step: int = 0) -> TraceWriter:
    writer = TraceWriter(folder, through_step=through_step)
    serving = asyncio.create_task(writer.serve())
    for table in tables:
        await writer.add(table)
    await writer.written()
    serving.cancel()
    return writer


async def test_a_file_holds_the_table_of_its_step(tmp_path: Path) -> None:
    tables = [a_table(1), a_table(2)]

    await written(tmp_path / "traces", tables)

    files = trace_files(tmp_path / "traces")
    assert list(files) == [1, 2]
    assert [path.name for path in files.values()] == ["step_000001.parquet", "step_000002.parquet"]
    assert parquet.read_table(files[2]).to_pylist() == tables[1].to_pylist()
    assert parquet.read_schema(files[2]).equals(SCHEMA)
    assert sorted((tmp_path / "traces").iterdir()) == list(files.values())


async def test_a_resumed_run_forgets_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    await written(tmp_path, [a_table(1), a_table(2), a_table(3)])

    await written(tmp_path, [], through_step=2)

    assert list(trace_files(tmp_path)) == [1, 2]


def test_the_same_step_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_trace(tmp_path, a_table(1)).read_bytes()

    assert write_trace(tmp_path, a_table(1)).read_bytes() == first


async def test_a_disk_that_takes_no_trace_is_reported_and_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "traces").write_text("in the way")

    writer = await asyncio.wait_for(
        written(tmp_path / "traces", [a_table(1), a_table(2), a_table(3)]), timeout=DEADLINE_SECONDS
    )

    assert writer.last_error.startswith("trace of step 3: ")


def test_a_process_that_has_lost_the_run_leaves_the_trace_of_its_successor(tmp_path: Path) -> None:
    zombie, successor = begin_incarnation(tmp_path), begin_incarnation(tmp_path)
    path = write_trace(tmp_path, a_table(1), require_right=successor.require_current)
    written_by_the_successor = path.stat().st_ino

    with pytest.raises(FencedError):
        write_trace(tmp_path, a_table(1), require_right=zombie.require_current)

    assert path.stat().st_ino == written_by_the_successor


async def test_unwritten_traces_are_waited_for_and_not_dropped(tmp_path: Path) -> None:
    writer, table = TraceWriter(tmp_path, through_step=0), a_table(1)
    await writer.add(table)
    await writer.add(table)
    third = asyncio.create_task(writer.add(table))
    await asyncio.sleep(0)
    assert not third.done()

    serving = asyncio.create_task(writer.serve())
    await asyncio.wait_for(third, timeout=DEADLINE_SECONDS)
    await writer.written()
    serving.cancel()


def test_a_token_that_was_not_sampled_is_marked_and_has_no_estimates() -> None:
    (row,) = [a_row([9, 4, 7, 22, 3, 1], score=1.0, window_start=1, earlier_values=[0.5], not_sampled=[2, 3])]

    lines = traced_step([row], algorithm={"gamma": 0.5}).to_pylist()

    assert [line["is_sampled"] for line in lines] == [True, True, False, False, True, True]
    assert [line["policy_mask"] for line in lines] == [False, True, False, False, True, True]
    assert [line["value_mask"] for line in lines] == [True, True, False, False, True, True]
    assert [line["return"] for line in lines] == [0.125, 0.25, None, None, 0.5, 1.0]  # time counts sampled tokens
    of_context = [line for line in lines if not line["is_sampled"]]
    for name in ("old_logprob", "ratio", "is_clipped", "raw_advantage", "advantage", "return"):
        assert [line[name] for line in of_context] == [None, None], name
    assert all(line["value"] is not None for line in of_context)
