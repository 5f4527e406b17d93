"""A run on in-memory streams, whose learner a test starts, kills, resumes and replays."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.build import learner_service
from learner.commands.replay.replay import NO_PEERS
from learner.models.loading.loading import load_policy, load_value_model
from learner.networks import load_models
from learner.persistence.checkpoint import Checkpoints
from learner.persistence.definition import with_values
from learner.persistence.run_identity import begin_incarnation
from learner.rollouts.manager import open_manager
from learner.rollouts.prompts import Prompt
from learner.service import LearnerService
from learner.state import definition_of, new_state, restore
from tests.learner.builders import rules_of
from tests.learner.fake_services import FakeTransport, generate, one_generator, reward, text_of
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import Config
from tppo.rollout import tokens
from tppo.security.envelope import PLAIN, Records, SealedRecords
from tppo.streams import MemoryStreams
from tppo.streams.contract import BEGINNING

STEPS = 6


def a_prompt(index: int) -> Prompt:
    return Prompt(index, str(index), tokens([2 + index]), "task", "answer", "{}")


def evaluation_prompts() -> list[Prompt]:
    """Four, of which the last is alone in its group; each has a worked solution of three tokens."""
    groups = ("k_to_2", "k_to_2", "k_to_2", "k_above_2")
    return [
        replace(a_prompt(index), solution=tokens([3, 4 + index, 1]), group=group) for index, group in enumerate(groups)
    ]


class NoTokenizer:
    def save_pretrained(self, _folder: Path) -> None:
        pass


class Laboratory:
    """A run's folder and configuration, and its learner, as often as a test restarts it."""

    def __init__(
        self,
        folder: Path,
        mode: str,
        algorithm: str = "tppo",
        *,
        rollouts_per_step: int = 6,
        evaluates_before_training: bool = True,
        evaluates_after_training: bool = False,
        compute_dtype: str = "float32",
        records: Records = PLAIN,
    ) -> None:
        self.folder, self.records = folder, records
        network_config = Qwen2Config(
            vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2,
        )  # fmt: skip
        torch.manual_seed(0)
        Qwen2ForCausalLM(network_config).save_pretrained(folder / "base")
        self.config = Config.model_validate(
            {
                "run": {
                    "algorithm": algorithm,
                    "mode": mode,
                    "total_training_steps": STEPS,
                    "rollouts_per_step": rollouts_per_step,
                    "window_length": 5 if algorithm == "tppo" else 12,
                    "max_response_length": 12,
                },
                "model": {"path": folder / "base"},
                "learner": {"compute_dtype": compute_dtype, "device": "cpu"},
                "data": {"train_files": ["unused"]},
                # What the fake generator says of its tokens is no policy's: the bound would leave all of them out.
                "algorithm": {"num_ignored_tail_tokens": 1, "max_engine_kl": "none"},
                "actor": {"lr": 1e-2, "ppo_mini_batches": 2},
                "critic": {"lr": 1e-2, "warmup_steps": 1},
                "evaluation": {
                    "test_freq": 3,
                    "val_before_train": evaluates_before_training,
                    "after_training": evaluates_after_training,
                    "temperature": 0.7,
                },
                "checkpoint": {"save_freq": 2, "keep": 10},
                "trace": {"enabled": True},
            }
        )

    def learner(
        self, run: str, streams: MemoryStreams, transport: FakeTransport, *, is_replay: bool = False
    ) -> LearnerService:
        """A learner that resumes from the newest checkpoint of the run, if there is one."""
        # Its state is read in another thread than the loop's, as `tppo learner` does.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._learner, run, streams, transport, is_replay=is_replay).result()

    def _learner(
        self, run: str, streams: MemoryStreams, transport: FakeTransport, *, is_replay: bool
    ) -> LearnerService:
        folder = self.folder / run
        folder.mkdir(exist_ok=True, parents=True)
        checkpoints = Checkpoints(folder / "checkpoints", keep=self.config.checkpoint.keep)
        latest = checkpoints.usable()
        definition = definition_of(self.config, latest, {"data.train_files": "rows"})
        config = with_values(self.config, definition.settings)
        prompts = [a_prompt(index) for index in range(10)]
        manager = open_manager(
            config.run,
            config.data,
            rules_of(config),
            num_cohort_steps=config.critic.warmup_steps,
            prompts=prompts,
            evaluation_prompts=evaluation_prompts(),
            decode=text_of,
            vocabulary_size=24,
        ).reading(self.records)
        state = new_state(
            config,
            definition,
            checkpoints,
            NoTokenizer(),  # type: ignore[arg-type]
            models=load_models(self.config, latest),
            manager=manager,
            wanted=None if is_replay else self.config,
        )
        if latest is not None:
            restore(state, latest)
        peers = replace(NO_PEERS, transport=transport, find_generators=one_generator)
        return learner_service(config, begin_incarnation(folder), state, streams, peers, settling_seconds=0)

    def lines(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def final_weights(self, run: str) -> Mapping[str, torch.Tensor]:
        latest = Checkpoints(self.folder / run / "checkpoints", keep=1).folder.newest()
        assert latest is not None
        return {
            f"{name}.{key}": tensor
            for name, network in (
                ("actor", load_policy(str(latest / "actor")).network),
                ("critic", load_value_model(str(latest / "critic")).network),
            )
            for key, tensor in network.state_dict().items()
        }


async def to_the_end(
    service: LearnerService,
    streams: MemoryStreams,
    transport: FakeTransport,
    *,
    chance: random.Random | None = None,
    lease_count: int = 4,
) -> None:
    generating = generate(streams, transport, chance=chance, lease_count=lease_count)
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(generating), group.create_task(reward(streams))]
        await service.run()
        for worker in workers:
            worker.cancel()


async def step_reached(service: LearnerService, step: int) -> None:
    while service.step < step:  # noqa: ASYNC110 - the service has no event for this
        await asyncio.sleep(0.001)


async def killed_at(step: int, service: LearnerService, streams: MemoryStreams, transport: FakeTransport) -> None:
    """Run until `step`, then drop everything, as SIGKILL does."""
    async with killing(to_the_end(service, streams, transport)):
        await step_reached(service, step)


@asynccontextmanager
async def killing(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the coroutine inside the block. No thread of it outlives the block, as none outlives its process."""
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor()
    loop.set_default_executor(threads)
    run = asyncio.create_task(coroutine)
    yield
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    threads.shutdown()
    loop.set_default_executor(ThreadPoolExecutor())


class ArchivedStreams(MemoryStreams):
    """Streams whose inbox is never trimmed, so that the whole log is there at the end."""

    def __init__(self) -> None:
        super().__init__(lease_seconds=60)
        self.inbox.trim = _keep  # type: ignore[method-assign, assignment]


async def _keep(_through: str) -> None:
    pass


class SealedStreams(ArchivedStreams):
    """Streams on which each writer seals what its role may write."""

    def __init__(self, records: SealedRecords) -> None:
        super().__init__()
        self.forge = self.inbox.append_now
        self.inbox.append_now = lambda payloads: self.forge(  # type: ignore[method-assign]
            [records.payload(PLAIN.record(one)) for one in payloads]
        )


async def replay(laboratory: Laboratory, run: str, log: MemoryStreams) -> LearnerService:
    """A learner that finds the whole log in its inbox, without generators or reward workers."""
    entries = await log.inbox.read(BEGINNING, max_count=10**6, wait_seconds=0)
    streams = ArchivedStreams()
    await streams.inbox.append([entry.payload for entry in entries])
    service = laboratory.learner(run, streams, FakeTransport(), is_replay=True)
    await asyncio.wait_for(service.run(), timeout=DEADLINE_SECONDS)
    assert (await streams.window_requests.depth()).num_waiting == 0
    return service
