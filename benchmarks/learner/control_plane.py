"""The learner's rollout manager without a model, fed with windows and scores as generators would send them.

Responses have two windows each.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from learner.reporting.heartbeat import missing_rows
from learner.rollouts.manager import RolloutManager, open_manager
from learner.rollouts.prompts import Prompt
from learner.rollouts.requests import Request, RequestRules, UnscoredResponse
from learner.rollouts.rollout import Rollout
from tppo.codec import encode_inbox_record
from tppo.config import Config
from tppo.config.load import loads
from tppo.rollout import (
    FinishReason,
    Score,
    ScoreStatus,
    VersionSpan,
    Window,
    logprobs,
    tokens,
)

STOP_TOKEN = 1
NUM_PROMPTS = 100_000
SHORT = 32  # tokens of a window
PARTS = ("inbox", "look for a step", "end of a step")


def config_of(*, num_rows: int, lag: int, mode: str, window_length: int, num_steps: int = 1_000_000) -> Config:
    text = '[model]\npath = "/none"\n[data]\ntrain_files = ["/none.jsonl"]\n'
    keys = [
        f"run.rollouts_per_step={num_rows}",
        f"run.mode={mode}",
        f"run.window_length={window_length}",
        f"run.max_response_length={2 * window_length}",
        "run.max_prompt_length=16",
        f"run.total_training_steps={num_steps}",
        "critic.warmup_steps=0",
        *([f"run.max_policy_lag={lag}", f"run.max_token_lag={lag}"] if mode == "streaming" else []),
    ]
    return loads(text, keys, source="the benchmark")


@cache
def prompts() -> Sequence[Prompt]:
    token_ids = tokens(range(2, 10))
    return [Prompt(index, "prompt", token_ids, "task", "", "{}") for index in range(NUM_PROMPTS)]


def manager_of(config: Config) -> RolloutManager:
    rules = RequestRules.of(
        config.run, config.generation, config.evaluation, max_score_attempts=3, stop_token_ids=(STOP_TOKEN,)
    )
    return open_manager(
        config.run,
        config.data,
        rules,
        num_cohort_steps=0,
        prompts=prompts(),
        evaluation_prompts=(),
        decode=lambda response: "",
    )


def answer(request: Request, version: int) -> bytes:
    """What a generator or a reward service would post."""
    if isinstance(request, UnscoredResponse):
        return encode_inbox_record(Score(request.rollout_id, request.attempt, ScoreStatus.SCORED, 1.0))
    num, is_last = request.max_new_tokens, bool(request.response_tokens)
    return encode_inbox_record(
        Window(
            request.rollout_id,
            request.window_index,
            tokens([2] * (num - 1) + [STOP_TOKEN if is_last else 2]),
            logprobs([-1.0]) * num,
            (VersionSpan(version, num),),
            FinishReason.STOP if is_last else FinishReason.LENGTH,
            generator="generation-0",
        )
    )


@dataclass
class ControlPlane:
    """The rollout manager, and the CPU seconds of its parts."""

    manager: RolloutManager
    version: int = 0
    num_windows: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    _position: int = 0

    def open(self) -> None:
        with self._timed("end of a step"):
            self.manager.scheduler.open(0)

    def step(self, *, read_count: int) -> None:
        """Answer what was requested until a step is full, and train it."""
        batch: list[Rollout] = []
        while not batch:
            payloads = self.answers()
            assert payloads, "nothing is under way, and no step is full"
            for first in range(0, len(payloads), read_count):
                self.enter(payloads[first : first + read_count])
                batch = batch or self._next_batch()
        self.num_windows += len(batch)
        self._train(batch)

    def answers(self) -> list[bytes]:
        """To all that was requested since the last time."""
        requests, self.manager.ledger.outbox = self.manager.ledger.outbox, []
        return [answer(request, self.version) for request in requests]

    def enter(self, payloads: Sequence[bytes]) -> None:
        """One read of the inbox."""
        with self._timed("inbox"):
            for payload in payloads:
                self._position += 1
                self.manager.enter((self._position, 0), self.manager.border.admit(payload))
            self.manager.evaluator.gather()
            self.manager.ledger.occurrences.clear()  # the journal's

    def _next_batch(self) -> list[Rollout]:
        """As the learner looks after each read; what it waits for is in its status."""
        with self._timed("look for a step"):
            batch = self.manager.scheduler.next_batch(self.version)
            if not batch and not self.manager.scheduler.replace_parked(self.version):
                missing_rows(self.manager)
            return batch

    def _train(self, batch: list[Rollout]) -> None:
        values = [logprobs([0.0]) * len(row.window_tokens) for row in batch]
        with self._timed("end of a step"):
            self.version += 1
            self.manager.ledger.take(batch)
            for row, of_row in zip(batch, values, strict=True):
                self.manager.ledger.mark_trained(row, of_row)
            self.manager.scheduler.close_step(batch, self.version)
            assert self.manager.ledger.conservation().holds

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[part] += time.process_time() - began


def control_plane(
    *, num_in_flight: int, mode: str, num_rows: int, window_length: int = SHORT, is_open: bool = True
) -> ControlPlane:
    lag = num_in_flight // num_rows - 1
    config = config_of(num_rows=num_rows, lag=lag, mode=mode, window_length=window_length)
    plane = ControlPlane(manager_of(config))
    if is_open:
        plane.open()
    return plane
