"""`tppo reward` and users' processes that are killed: every response is scored, and once."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from services.local.redis_server import free_port
from tests.reward.attached.attaching import SECTION, a_server
from tests.support.processes import REPOSITORY, TPPO, a_process, terminated
from tests.support.streams import announced, inbox_records
from tests.support.waiting import DEADLINE_SECONDS
from tppo.codec import encode_reward_request
from tppo.rollout import RewardRequest, Score
from tppo.streams.connection import RedisClient
from tppo.streams.redis import RedisStreams

pytestmark = pytest.mark.process

IMPORTABLE = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
CONFIG = """
[model]
path = "actor"
[data]
train_files = ["train.jsonl"]
[reward]
default_function = "grpc:slow"
"""
CLIENT = """
import sys, time
from tppo.reward_client import reward_function, serve

@reward_function("slow", concurrency=4)
def slow(data_source, solution_str, ground_truth, extra_info):
    time.sleep(0.02)
    return float(solution_str)

serve(sys.argv[1])
"""
NUM_REQUESTS = 100


async def test_a_process_that_is_killed_in_mid_work_loses_no_score_and_duplicates_none(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "client.py").write_text(CLIENT)
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    requests = [RewardRequest(str(index), 0, "any", "", str(index), "") for index in range(NUM_REQUESTS)]
    await streams.reward_requests.put([encode_reward_request(request) for request in requests])
    own = ["--set", f"run.name={run_name}", "--set", f"run.directory={tmp_path}"]
    options = ["--redis", redis_url, *own, "--name", "reward-0"]

    async with a_process(*TPPO, "reward", str(tmp_path / "run.toml"), *options) as service:
        address = (await announced(redis_client, run_name, "reward")).address
        client = (sys.executable, str(tmp_path / "client.py"), address)
        async with a_process(*client, environment=IMPORTABLE) as doomed:
            await inbox_records(streams, Score, 10)
            async with a_process(*client, environment=IMPORTABLE):
                doomed.send_signal(signal.SIGKILL)
                found = await inbox_records(streams, Score, NUM_REQUESTS)
        exit_code = await terminated(service)

    assert {score.rollout_id: score.score for score in found} == {str(n): float(n) for n in range(NUM_REQUESTS)}
    assert await streams.inbox.length() == NUM_REQUESTS
    assert exit_code == 0


HANGING = """
import sys, time
from tppo.reward_client import reward_function, serve

@reward_function("slow")
def slow(data_source, solution_str, ground_truth, extra_info):
    print("in a call", flush=True)
    time.sleep(1000)

serve(sys.argv[1])
"""


async def test_a_process_whose_call_hangs_ends_at_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(HANGING)
    section = SECTION.model_copy(update={"functions": {"mine": "grpc:slow"}})
    pipe = asyncio.subprocess.PIPE

    async with a_server(section) as server:
        scoring = asyncio.create_task(server.score("a"))
        command = (sys.executable, str(tmp_path / "client.py"), server.address)
        async with a_process(*command, environment=IMPORTABLE, stdout=pipe, stderr=pipe) as client:
            assert client.stdout is not None
            await client.stdout.readline()
            client.send_signal(signal.SIGINT)
            _, complaints = await asyncio.wait_for(client.communicate(), DEADLINE_SECONDS)
        scoring.cancel()

    assert client.returncode == 0
    assert b"Traceback" not in complaints


async def test_a_process_says_once_that_nobody_listens_and_then_for_which_run_it_scores(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    port = free_port()
    command = (sys.executable, str(tmp_path / "client.py"), f"127.0.0.1:{port}")
    async with a_process(*command, environment=IMPORTABLE, stderr=asyncio.subprocess.PIPE) as client:
        assert client.stderr is not None
        first = (await client.stderr.readline()).decode()
        await asyncio.sleep(1.0)  # some retries
        async with a_server(SECTION.model_copy(update={"port": port})):
            second = (await asyncio.wait_for(client.stderr.readline(), DEADLINE_SECONDS)).decode()

    assert f"WARNING 127.0.0.1:{port}: UNAVAILABLE: " in first
    assert second.endswith("INFO attached; scoring for run 'r1'\n")
