"""`tppo audit` on runs of the learner: killed and resumed, and read token by token."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from learner.commands.audit.__main__ import main
from learner.commands.audit.rollout_view import tokens_of
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import STEPS, ArchivedStreams, Laboratory, killed_at, replay, to_the_end
from tppo.config import ConfigError
from tppo.run_folder.paths import trace_files


async def a_killed_and_resumed_run(laboratory: Laboratory) -> ArchivedStreams:
    streams, transport = ArchivedStreams(), FakeTransport()
    await killed_at(1, laboratory.learner("run", streams, transport), streams, transport)
    await killed_at(5, laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    return streams


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
async def test_a_killed_and_resumed_run_keeps_every_promise_and_has_the_traces_of_its_replay(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    laboratory = Laboratory(tmp_path, mode)

    streams = await a_killed_and_resumed_run(laboratory)
    await replay(laboratory, "replay", streams)

    assert await asyncio.to_thread(main, [str(tmp_path / "run")]) == 0
    assert "BROKEN" not in capsys.readouterr().out
    resumed, undisturbed = (trace_files(tmp_path / run / "traces") for run in ("run", "replay"))
    assert list(resumed) == list(undisturbed) == list(range(1, STEPS + 1))
    assert [path.read_bytes() for path in resumed.values()] == [path.read_bytes() for path in undisturbed.values()]


async def test_a_duplicate_trace_of_a_step_fails_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    files = trace_files(tmp_path / "run" / "traces")

    files[STEPS].write_bytes(files[STEPS - 1].read_bytes())

    assert await asyncio.to_thread(main, [str(tmp_path / "run")]) == 1
    assert capsys.readouterr().out.count("BROKEN") >= 3


async def test_a_rollout_can_be_read_token_by_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "lockstep"), ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    tables = [parquet.read_table(path) for path in trace_files(tmp_path / "run" / "traces").values()]
    lines = [line for table in tables for line in table.to_pylist()]
    rollout_id = next(line["rollout_id"] for line in lines if line["value_mask"] and line["position"] == 5)

    tokens = tokens_of(tmp_path / "run", rollout_id)
    assert await asyncio.to_thread(main, [str(tmp_path / "run"), "--rollout", rollout_id]) == 0

    assert [token["position"] for token in tokens] == list(range(len(tokens)))
    assert [token["window_index"] for token in tokens[:6]] == [0] * 5 + [1]
    assert len({token["value_step"] for token in tokens}) == 1
    assert tokens[0]["step"] < tokens[-1]["step"] == tokens[0]["value_step"]
    printed = capsys.readouterr().out
    assert f"{rollout_id}: {len(tokens)} tokens, {len({token['window_index'] for token in tokens})} windows" in printed
    assert len([line for line in printed.splitlines() if line.startswith("│")]) == len(tokens)


def test_an_unknown_rollout_and_a_folder_that_is_no_run_are_bad_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run; expected a run's folder"):
        main([str(tmp_path)])
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="no trace has a token of rollout '9-9-9'"):
        main([str(tmp_path), "--rollout", "9-9-9"])


def test_the_audit_does_not_wait_for_torch() -> None:
    program = "import sys, learner.commands.audit.__main__; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
