"""`tppo reward` as a process."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.reward.reporting.response_log import logged_responses
from tppo.codec import decode_inbox_record, encode_reward_request
from tppo.presence import present
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.streams import RedisClient, RedisStreams

pytestmark = pytest.mark.process

CONFIG = """
[model]
path = "actor"
[data]
train_files = ["train.jsonl"]
[reward]
timeout_seconds = 0.5
[reward.functions]
sums = "exact"
mine = "mine.py:compute_score"
"""
MINE = """
import time
def compute_score(data_source, solution_str, ground_truth, extra_info):
    if solution_str == "slow":
        time.sleep(1000)
    return 0.5
"""


def config_file(folder: Path, function_file: str = MINE) -> Path:
    (folder / "mine.py").write_text(function_file)
    (folder / "run.toml").write_text(CONFIG)
    return folder / "run.toml"


def check(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tppo", "reward", str(config), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check_accepts_functions_that_load(tmp_path: Path) -> None:
    assert check(config_file(tmp_path)).returncode == 0


def test_check_refuses_a_file_that_does_not_load_in_one_sentence(tmp_path: Path) -> None:
    done = check(config_file(tmp_path, "import nowhere_to_be_found"))

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"tppo reward: [reward] {tmp_path}/mine.py: does not load: ModuleNotFoundError"
    )


async def test_the_process_scores_announces_itself_and_ends_at_sigterm(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    requests = [("a", "sums", "# 4"), ("b", "mine", "quick"), ("c", "mine", "slow")]
    await streams.reward_requests.put(
        [encode_reward_request(RewardRequest(name, 0, source, "", text, "4")) for name, source, text in requests]
    )
    options = ["--set", "reward.log_responses=true", "--set", f"run.directory={tmp_path}"]
    where = [*options, "--redis", redis_url, "--set", f"run.name={run_name}", "--name", "reward-7"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tppo", "reward", str(config_file(tmp_path)), *where)
    )
    try:
        found: list[Score] = []
        position = "0-0"
        while len(found) < 3:
            for entry in await streams.inbox.read(position, max_count=9, wait_seconds=1.0):
                position, record = entry.position, decode_inbox_record(entry.payload)
                assert isinstance(record, Score)
                found.append(record)
        announced = await present(redis_client, run_name)
    finally:
        process.send_signal(signal.SIGTERM)
        exit_code = await process.wait()

    assert {score.rollout_id: (score.status, score.score) for score in found} == {
        "a": (ScoreStatus.SCORED, 1.0),
        "b": (ScoreStatus.SCORED, 0.5),
        "c": (ScoreStatus.TIMED_OUT, None),
    }
    assert [(one.name, one.kind) for one in announced] == [("reward-7", "reward")]
    assert announced[0].address.startswith("127.0.0.1:")
    assert {line["rollout_id"]: line["score"] for line in logged_responses(tmp_path / run_name)} == {
        "a": 1.0,
        "b": 0.5,
        "c": None,
    }
    assert exit_code == 0
    assert await present(redis_client, run_name) == []
