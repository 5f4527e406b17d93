"""`tppo reward` and users' processes that are killed: every response is scored, and once."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tppo.codec import decode_inbox_record, encode_reward_request
from tppo.presence import Presence, present
from tppo.rollout import RewardRequest, Score
from tppo.streams import RedisClient, RedisStreams

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[3]
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


@asynccontextmanager
async def a_process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def the_service(client: RedisClient, run: str) -> Presence:
    while not (found := [one for one in await present(client, run) if one.kind == "reward"]):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return found[0]


async def scores(streams: RedisStreams, count: int) -> list[Score]:
    found: list[Score] = []
    position = "0-0"
    while len(found) < count:
        for entry in await streams.inbox.read(position, max_count=1000, wait_seconds=1.0):
            position, record = entry.position, decode_inbox_record(entry.payload)
            assert isinstance(record, Score)
            found.append(record)
    return found


async def test_a_process_that_is_killed_in_mid_work_loses_no_score_and_duplicates_none(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "client.py").write_text(CLIENT)
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    requests = [RewardRequest(str(index), 0, "any", "", str(index), "") for index in range(NUM_REQUESTS)]
    await streams.reward_requests.put([encode_reward_request(request) for request in requests])
    options = ["--redis", redis_url, "--set", f"run.name={run_name}", "--name", "reward-0"]

    async with a_process("-m", "tppo", "reward", str(tmp_path / "run.toml"), *options) as service:
        address = (await the_service(redis_client, run_name)).address
        async with a_process(str(tmp_path / "client.py"), address) as doomed:
            await scores(streams, 10)
            async with a_process(str(tmp_path / "client.py"), address):
                doomed.send_signal(signal.SIGKILL)
                found = await scores(streams, NUM_REQUESTS)
        service.send_signal(signal.SIGTERM)
        exit_code = await service.wait()

    assert {score.rollout_id: score.score for score in found} == {str(n): float(n) for n in range(NUM_REQUESTS)}
    assert await streams.inbox.length() == NUM_REQUESTS
    assert exit_code == 0
