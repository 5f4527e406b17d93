"""The run folder at the start of `tppo run`."""

import json
import os
from pathlib import Path

import pytest

from services.local.launch import locked, prepare
from services.local.metrics import read_metrics
from tests.support.damage import DAMAGES
from tppo.config import ConfigError
from tppo.run_folder.paths import RunPaths


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    refusal = rf"already training in PID {os.getpid()}; use another run\.name"

    with locked(paths), pytest.raises(ConfigError, match=refusal), locked(paths):
        pass

    with locked(paths):
        pass


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_folder_whose_lock_holds_garbage_belongs_to_one_run_at_a_time(tmp_path: Path, kind: str) -> None:
    paths = RunPaths(tmp_path / "run")

    with locked(paths):
        paths.lock.write_bytes(DAMAGES[kind](b"12345\n"))
        with pytest.raises(ConfigError, match=r"already training in PID .*; use another run\.name"), locked(paths):
            pass


def test_a_new_run_removes_an_earlier_attempt_and_a_resumed_one_keeps_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    prepare(paths, resume=False)
    paths.metrics.write_text(json.dumps({"kind": "step", "step": 1}) + "\n")
    (paths.redis / "appendonly.aof").write_text("old")

    prepare(paths, resume=True)
    assert len(read_metrics(paths.metrics).steps) == 1
    assert list(paths.redis.iterdir())

    prepare(paths, resume=False)
    assert not paths.metrics.exists()
    assert not list(paths.redis.iterdir())
