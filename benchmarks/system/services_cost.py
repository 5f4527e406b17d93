"""What the services cost: the same training as a bare loop in one process, and as `tppo run`.

    OMP_NUM_THREADS=1 python -m benchmarks.system.services_cost --steps 40

The bare loop has the same engine (in its thread, as ever), ledger and trainer, and nothing else: no Redis, no gRPC, no
leases, no checkpoints, no traces, no evaluation. Compare ratios of one call: a busy machine slows both.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from learner.build import new_manager
from learner.models.loading.named_tensors import copied, named_tensors
from learner.networks import load_models
from learner.rollouts.manager import RolloutManager
from learner.state import new_trainer
from learner.step.trainer import Trainer
from services.generation.build import build_engine
from services.generation.transformers_engine.engine import TransformersEngine
from services.reward.verifiers.answers import is_exact_match
from tppo import weights
from tppo.config import Config, load
from tppo.models.tokenizer import load_tokenizer
from tppo.rollout import RewardRequest, Score, ScoreStatus, Window, WindowRequest

QUICKSTART = Path(__file__).parents[2] / "examples" / "iterated_map" / "quickstart.toml"


@dataclass
class BareLoop:
    config: Config
    engine: TransformersEngine
    trainer: Trainer
    manager: RolloutManager
    num_records: int = 0
    generating: set["asyncio.Task[Window]"] = field(default_factory=set)
    seconds_waiting: float = 0.0
    seconds_training: float = 0.0

    async def run(self) -> None:
        await self._take_weights(0)
        self.manager.scheduler.open(0)
        for step in range(self.config.run.total_training_steps):
            began = time.perf_counter()
            while not (batch := self.manager.scheduler.next_batch(step)):
                await self._generate_some()
            arrived = time.perf_counter()
            self.manager.ledger.take(batch)
            result = self.trainer.step(batch, policy_version=step)
            for row, values in zip(batch, result.values, strict=True):
                self.manager.ledger.mark_trained(row, values)
            await self._take_weights(step + 1)
            self.manager.scheduler.close_step(batch, step + 1)
            self.seconds_waiting += arrived - began
            self.seconds_training += time.perf_counter() - arrived

    async def _take_weights(self, version: int) -> None:
        await self.engine.update_weights(await asyncio.to_thread(self._update, version))

    def _update(self, version: int) -> weights.WeightUpdate:
        tensors = copied(named_tensors(self.trainer.policy.network))
        return weights.WeightUpdate(version, 1, weights.digest(tensors), tensors)

    async def _generate_some(self) -> None:
        requests, self.manager.ledger.outbox = self.manager.ledger.outbox, []
        windows = [request for request in requests if isinstance(request, WindowRequest)]
        self.generating |= {asyncio.create_task(self.engine.generate(request)) for request in windows}
        done, self.generating = await asyncio.wait(self.generating, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self._enter(task.result())
        rewards, self.manager.ledger.outbox = self.manager.ledger.outbox, []
        for request in rewards:
            if isinstance(request, RewardRequest):
                self._enter(scored(request))

    def _enter(self, record: Window | Score) -> None:
        self.num_records += 1
        self.manager.enter((self.num_records, 0), record)


def scored(request: RewardRequest) -> Score:
    score = float(is_exact_match(request.response, request.ground_truth))
    return Score(request.rollout_id, request.attempt, ScoreStatus.SCORED, score)


@dataclass(frozen=True)
class Seconds:
    waiting: float  # for rows
    training: float
    engine_busy: float  # in its thread, beside the others

    @property
    def wall(self) -> float:
        return self.waiting + self.training


async def bare_seconds(config: Config) -> Seconds:
    engine = build_engine(config)
    trainer = new_trainer(config, *load_models(config, None))
    loop = BareLoop(config, engine, trainer, new_manager(config, load_tokenizer(config.model.path)))
    await loop.run()
    for task in loop.generating:
        task.cancel()
    seconds = Seconds(loop.seconds_waiting, loop.seconds_training, engine.statistics().busy_seconds)
    await engine.close()
    return seconds


def services_seconds(settings: Sequence[str]) -> float:
    """From the learner's first request to its last step under `tppo run`."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--set={setting}" for setting in (*settings, f"run.directory={folder}", "dashboard.port=0")]
        command = [sys.executable, "-m", "tppo", "run", str(QUICKSTART), "--exit-at-end", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "quickstart" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if line["kind"] == "step"]
    return float(steps[-1]["seconds_since_start"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    settings = [f"run.total_training_steps={steps}", "evaluation.test_freq=0"]
    disable_progress_bar()  # type: ignore[no-untyped-call]
    bare = asyncio.run(bare_seconds(load(QUICKSTART, settings)))
    services = services_seconds(settings)
    print(f"{steps} steps, first request to last step, evaluation off")
    print(f"bare loop  {bare.wall:6.1f} s: {bare.waiting:.1f} waiting for rows, {bare.training:.1f} training")
    print(f"             (the engine was busy for {bare.engine_busy:.1f} s meanwhile)")
    print(f"services   {services:6.1f} s")
    print(f"services / bare loop  {services / bare.wall:.2f}")


if __name__ == "__main__":
    main()
