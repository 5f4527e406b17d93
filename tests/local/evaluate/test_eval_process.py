"""`tppo eval` as a process: a checkpoint that is killed on the way, and the policy of a run that trains."""

import asyncio
import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.generation.endpoint.serving import TOKEN, an_endpoint, policy_folder
from tests.support.processes import TPPO, a_process
from tests.support.waiting import until
from tppo.process.cancellation import cancel_all
from tppo.process.presence import announce, beat, this_process
from tppo.run_folder.json_lines import read_objects
from tppo.streams.connection import RedisClient

pytestmark = pytest.mark.process

BASE = Path(__file__).parents[3] / "examples" / "iterated_map" / "base"
VALIDATION = BASE.parent / "data" / "validation.jsonl"
ENDED = 0


def evaluation(output: Path, *options: str) -> list[str]:
    settings = ("--set", "learner.device=cpu", "--max-tokens", "128")
    common = ("--benchmark", str(VALIDATION), "--function", "exact", "--output", str(output), *settings)
    return [*TPPO, "eval", str(BASE), *common, *options]


def content_of(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


async def test_a_checkpoint_s_evaluation_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    command = evaluation(tmp_path / "out", "--limit", "3", "--samples", "2")
    responses = tmp_path / "out" / "responses.jsonl"

    async with a_process(*command, stdout=subprocess.DEVNULL) as process:
        await until(lambda: process.returncode is not None or b"\n" in content_of(responses), "a response")
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    before = read_objects(responses)
    async with a_process(*command, stdout=subprocess.PIPE) as process:
        output, _ = await process.communicate()

    assert process.returncode == ENDED
    lines = read_objects(responses)
    assert lines[: len(before)] == before
    assert sorted((line["problem"], line["sample"]) for line in lines) == [(p, s) for p in range(3) for s in range(2)]
    assert {line["status"] for line in lines} == {"SCORED"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["iterated_map"]
    scores = [line["score"] for line in lines]
    assert summary["pass@1"]["value"] == pytest.approx(sum(scores) / 6)
    assert "pass@2" in output.decode()


async def test_the_policy_of_a_run_is_asked_while_it_trains(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    run, model = tmp_path / run_name, policy_folder(tmp_path / "model")
    run.mkdir(mode=0o700)
    sections: dict[str, dict[str, Any]] = {
        "run": {"name": run_name, "directory": str(tmp_path), "window_length": 16, "max_response_length": 16},
        "model": {"path": str(model)},
        "data": {"train_files": ["none"]},
        "learner": {"device": "cpu"},
    }
    (run / "config.toml").write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in sections.items()
        )
    )
    benchmark = tmp_path / "aime.jsonl"
    benchmark.write_text(json.dumps({"problem": "2 + 2", "answer": 4}) + "\n")
    environment = {**os.environ, "TPPO_REDIS_URL": redis_url, "TPPO_ENDPOINT_TOKEN": TOKEN}

    async with an_endpoint(model, model_name=run_name) as endpoint:
        url = f"http://127.0.0.1:{endpoint.port}/v1"
        generator = replace(this_process("generation-0", "generation"), status={"endpoint": url})
        beating = asyncio.create_task(beat(lambda: announce(redis_client, run_name, generator)))
        command = [*TPPO, "eval", str(run), "--live", "--benchmark", str(benchmark), "--samples", "2"]
        async with a_process(*command, environment=environment, stdout=subprocess.PIPE) as process:
            output, _ = await process.communicate()
        await cancel_all([beating])

    assert process.returncode == ENDED, output.decode()
    lines = read_objects(run / "evals" / "live-aime" / "responses.jsonl")
    assert sorted(line["sample"] for line in lines) == [0, 1]
    assert {line["policy"] for line in lines} == {"policy-version-7"}
    assert {(line["status"], line["data_source"]) for line in lines} == {("SCORED", "aime")}
