"""An update that vLLM does not survive, with a stand-in for its processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.generation.engine import EngineFailedError
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.served_weights import ServedWeights
from tests.support.waiting import DEADLINE_SECONDS
from tests.vllm.served import MODEL, VOCABULARY, a_model, a_request, an_update


class StandIn:
    """Extends no window, and breaks in the update to which it is `broken`."""

    def __init__(self) -> None:
        self.model_config = SimpleNamespace(get_vocab_size=lambda: VOCABULARY, seed=0)
        self.calls: list[str] = []
        self.aborted = asyncio.Event()
        self.is_broken = False

    async def generate(self, prompt: Any, parameters: Any, request_id: str) -> AsyncIterator[Any]:
        self.calls.append("generate")
        await self.aborted.wait()
        part = SimpleNamespace(token_ids=[], logprobs=None, finish_reason="abort", weight_versions=[])
        yield SimpleNamespace(outputs=[part], prompt_token_ids=prompt["prompt_token_ids"], num_cached_tokens=0)

    async def abort(self, request_ids: Any) -> None:
        if request_ids:
            self.aborted.set()

    async def update_weights(self, request: Any) -> None:
        self.calls.append("update_weights")
        if self.is_broken:
            raise OSError("half of it is there")

    def __getattr__(self, name: str) -> Any:
        async def noted(*_: Any, **__: Any) -> None:
            self.calls.append(name)

        return noted


async def test_an_update_that_fails_half_way_ends_the_engine_and_what_it_serves(tmp_path: Path) -> None:
    from services.generation.vllm_engine.engine import VllmEngine
    from services.generation.vllm_engine.step_counts import StepCounts
    from services.generation.vllm_engine.weight_sources import WholeWeights

    MODEL.save_pretrained(tmp_path)
    core: Any = StandIn()
    engine = VllmEngine(
        core,
        StepCounts(),
        num_slots=2,
        capacity=64,
        source=WholeWeights(tmp_path),
        policy=UpdatePolicy(),
        has_seeds=True,
    )
    weights, ended = ServedWeights(engine), list[str]()
    weights.on_refusal = lambda: ended.append("worker")
    await weights.take(an_update(a_model(1), 0))
    running = asyncio.create_task(engine.generate(a_request()))
    await asyncio.sleep(0)
    core.is_broken = True

    with pytest.raises(EngineFailedError, match="vLLM failed in a weight update: half of it is there"):
        await weights.take(an_update(a_model(2), 1))
    with pytest.raises(EngineFailedError, match="half of it is there"):
        await running
    with pytest.raises(EngineFailedError, match="half of it is there"):
        await engine.generate(a_request("later"))

    assert ended == ["worker"]
    assert core.calls[-2:] == ["start_weight_update", "update_weights"]  # nothing resumes
    assert engine.policy_version == 0


def test_vllms_processes_die_with_a_generator_that_is_killed() -> None:
    """Those too that have no worker of ours in them, such as the coordinator of data parallelism; and no others."""
    waits = [sys.executable, "-c", "input()"]
    generator = subprocess.Popen(waits, stdin=subprocess.PIPE)
    environment = {**os.environ, "TPPO_GENERATOR_PID": str(generator.pid)}
    other = {**os.environ, "TPPO_GENERATOR_PID": f"{generator.pid}0"}
    program = "import services.generation.vllm_engine.worker; print('ready', flush=True); input()"
    with (
        subprocess.Popen(waits, env=environment, stdin=subprocess.PIPE) as coordinator,
        subprocess.Popen(waits, env=other, stdin=subprocess.PIPE) as stranger,
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker,
    ):
        assert worker.stdout is not None
        assert "ready" in worker.stdout.readline()
        generator.kill()
        generator.communicate()

        assert worker.wait(DEADLINE_SECONDS) == -signal.SIGKILL
        assert coordinator.wait(DEADLINE_SECONDS) == -signal.SIGKILL
        assert stranger.poll() is None
