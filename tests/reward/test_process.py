"""`tppo reward` as a process."""

import json
from pathlib import Path

import pytest

from services.reward.reporting.response_log import logged_responses
from tests.support.processes import TPPO, a_process, terminated, tppo
from tests.support.streams import announced, inbox_records
from tppo.codec import encode_reward_request
from tppo.process.presence import present
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.streams.connection import RedisClient
from tppo.streams.redis import RedisStreams

pytestmark = pytest.mark.process

CONFIG = """
[model]
path = "actor"
[data]
train_files = ["train.jsonl"]
[reward]
timeout_seconds = 5
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


def test_check_accepts_functions_that_load(tmp_path: Path) -> None:
    assert tppo("reward", config_file(tmp_path), "--check").returncode == 0


def test_check_refuses_a_file_that_does_not_load_in_one_sentence(tmp_path: Path) -> None:
    done = tppo("reward", config_file(tmp_path, "import nowhere_to_be_found"), "--check")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"tppo reward: reward.functions.mine = '{tmp_path}/mine.py:compute_score': {tmp_path}/mine.py: does not load: "
        "ModuleNotFoundError"
    )


def test_check_refuses_a_function_that_raises_over_a_first_row(tmp_path: Path) -> None:
    config = config_file(tmp_path, "def compute_score(**columns): raise KeyError('boom')")
    config.write_text(CONFIG + 'theirs = "grpc:theirs"\n')
    done = {}
    for name in ("sums", "mine", "theirs"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps({"data_source": name, "response": "4", "ground_truth": "4"}))
        done[name] = tppo("reward", config, "--check", "--score", str(file))

    assert {name: one.returncode for name, one in done.items()} == {"sums": 0, "mine": 2, "theirs": 0}
    cause = "no score for the first row of data_source 'mine', with its own answer as the response: KeyError: 'boom'"
    assert f"[reward] {tmp_path}/mine.py:compute_score: {cause}" in done["mine"].stderr.splitlines()[-1]


async def test_the_process_scores_announces_itself_and_ends_at_sigterm(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    requests = [("a", "sums", "# 4"), ("b", "mine", "quick"), ("c", "mine", "slow")]
    await streams.reward_requests.put(
        [encode_reward_request(RewardRequest(name, 0, source, "", text, "4")) for name, source, text in requests]
    )
    options = ["--set", "reward.log_responses=true", "--set", f"run.directory={tmp_path}/unseen"]
    options += ["--set", f"reward.responses_directory={tmp_path}"]
    where = [*options, "--redis", redis_url, "--set", f"run.name={run_name}", "--name", "reward-7"]
    async with a_process(*TPPO, "reward", str(config_file(tmp_path)), *where) as process:
        found = await inbox_records(streams, Score, 3)
        service = await announced(redis_client, run_name, "reward")
        exit_code = await terminated(process)

    assert {score.rollout_id: (score.status, score.score) for score in found} == {
        "a": (ScoreStatus.SCORED, 1.0),
        "b": (ScoreStatus.SCORED, 0.5),
        "c": (ScoreStatus.TIMED_OUT, None),
    }
    assert service.name == "reward-7"
    assert service.address.startswith("127.0.0.1:")
    assert {line["rollout_id"]: line["score"] for line in logged_responses(tmp_path / run_name)} == {
        "a": 1.0,
        "b": 0.5,
        "c": None,
    }
    assert exit_code == 0
    assert await present(redis_client, run_name) == []
