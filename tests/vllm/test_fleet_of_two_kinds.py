"""A run with a generator of each kind: our own engine, and vLLM in its own environment, which joins.

TPPO_TEST_LEARNER_PYTHON=.venv/bin/python make test-vllm ARGS="-k one_of_each_kind"
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.joined_generators import either_is_killed_and_joins_again
from tests.support.quickstart_run import NEVER_ENDS, Run
from tests.support.waiting import DEADLINE_SECONDS

PYTHON = os.environ.get("TPPO_TEST_LEARNER_PYTHON", "")
"""Of the environment with everything else."""
LEARNER = (str(Path(PYTHON).absolute()), "-P", "-m", "tppo")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not PYTHON, reason="expected TPPO_TEST_LEARNER_PYTHON, an interpreter with the learner's packages"
    ),
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with closing(Run(tmp_path, program=LEARNER, **NEVER_ENDS, **{"trace.enabled": "true"})) as started:
        started.deadline_seconds = 3 * DEADLINE_SECONDS  # vLLM starts twice, which takes minutes on a busy machine
        yield started


def test_one_of_each_kind_serves_a_run_and_either_is_killed_and_joins_again(run: Run, tmp_path: Path) -> None:
    def join() -> "subprocess.Popen[str]":
        return run.join(tmp_path / "elsewhere", 'generation.engine="vllm"', name="vllm")

    either_is_killed_and_joins_again(run, join, name="vllm")

    audit = subprocess.run([*LEARNER, "audit", str(run.folder)], capture_output=True, text=True, check=False)
    assert audit.returncode == 0, audit.stdout + audit.stderr
