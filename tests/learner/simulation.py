"""A run without models: a learner's manager, and generators and reward workers that answer in any order.

What becomes of a request follows from the world's seed and the request's key alone; when, from a source of chance. A
live run leaves its inbox as a log, and a `Reader` goes through the log again at any speed.
"""

import math
import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from learner.rollouts import ledger_state
from learner.rollouts.border import RejectedError
from learner.rollouts.requests import UnscoredResponse
from learner.rollouts.rollout import Position
from tests.learner.builders import STOP_TOKEN, a_config, a_manager, kept
from tppo import codec
from tppo.config.schema import Config
from tppo.rollout import (
    FinishReason,
    InboxRecord,
    RewardRequest,
    Score,
    ScoreStatus,
    VersionSpan,
    Window,
    WindowRequest,
    logprobs,
    tokens,
)

Log = list[tuple[Position, InboxRecord | RejectedError]]
MAX_EVENTS = 20_000


@dataclass(frozen=True)
class BatchRow:
    """A row of a training step, as far as a replay must find it again."""

    rollout_id: str
    window_index: int
    num_tokens: int
    response_length: int
    score: float | None
    lag: int  # of its oldest token
    prefix_age: int | None


class Reader:
    """The learner's side: the rollout manager, steps that take time, and the requests that were made."""

    def __init__(self, config: Config) -> None:
        self.config, self.run = config, config.run
        self.manager = a_manager(config)
        self.version = 0
        self.batches: list[list[BatchRow]] = []
        self.window_requests: list[WindowRequest] = []
        self.reward_requests: list[RewardRequest] = []
        self.in_training: list[Any] = []
        self.manager.scheduler.open(self.version)
        self._collect()

    @property
    def is_over(self) -> bool:
        return self.version == self.run.total_training_steps

    def checkpointed(self, config: Config | None = None) -> "Reader":
        """Another learner that starts from what a checkpoint keeps of this one, through JSON."""
        state = kept(ledger_state.captured(self.manager))
        other = Reader(config or self.config)
        other.manager = a_manager(other.config)
        ledger_state.restore(other.manager, state)
        other.version, other.batches = self.version, list(self.batches)
        other.window_requests, other.reward_requests = list(self.window_requests), list(self.reward_requests)
        other.manager.scheduler.refill(other.version)
        other._collect()
        return other

    def read(self, log: Log) -> None:
        for position, record in log:
            if isinstance(record, RejectedError):
                self.manager.ledger.reject(position, record.answered, str(record))
            else:
                self.manager.enter(position, record)
            self._collect()

    def begin_step(self) -> bool:
        """Take the next batch when it is there; where none can come, replace what was parked; whether one was taken."""
        if self.in_training or self.is_over:
            return False
        while not (batch := self.manager.scheduler.next_batch(self.version)):
            if not self.manager.scheduler.replace_parked(self.version):
                return False
            self._collect()
        self.manager.ledger.take(batch)
        self.in_training = batch
        return True

    def end_step(self) -> None:
        """What was taken is trained."""
        batch, self.in_training = self.in_training, []
        if not batch:
            return
        self.batches.append([self._batch_row(row) for row in batch])
        for row in batch:
            self.manager.ledger.mark_trained(row, logprobs([0.0] * len(row.window_tokens)))
        self.version += 1
        self.manager.scheduler.close_step(batch, self.version)
        self._collect()

    def catch_up(self) -> None:
        """All steps that what was read allows."""
        self.end_step()
        while self.begin_step():
            self.end_step()

    def _batch_row(self, row: Any) -> BatchRow:
        oldest = min(row.token_versions[row.window_start :], default=self.version)
        return BatchRow(
            row.rollout_id,
            row.window_index,
            len(row.window_tokens),
            len(row.response_tokens),
            row.score,
            self.version - oldest,
            row.prefix_age(self.version),
        )

    def _collect(self) -> None:
        requests, self.manager.ledger.outbox = self.manager.ledger.outbox, []
        self.window_requests += [one for one in requests if isinstance(one, WindowRequest)]
        responses = [one for one in requests if isinstance(one, UnscoredResponse)]
        self.reward_requests += [one.request(self.manager.ledger.decode) for one in responses]


@dataclass(frozen=True)
class World:
    """What generators and reward workers make of requests."""

    seed: int
    max_length: int  # of what the model says before it stops; the run may cut it before
    failing_windows: float = 0.0  # shares
    stalling_windows: float = 0.0
    failing_scores: float = 0.0
    poisoned_answers: float = 0.0

    def length(self, rollout_id: str) -> int:
        return self._source("length", rollout_id).randint(1, self.max_length)

    def window(self, request: WindowRequest, *, oldest: int, newest: int) -> Window:
        """The answer of a generator whose weights change from `oldest` to `newest` on the way."""
        fate = self._source("window", request.key).random()
        if fate < self.failing_windows:
            return Window(*request.key, tokens(), logprobs(), (), FinishReason.FAILED, error="simulated")
        remaining = self.length(request.rollout_id) - len(request.response_tokens)
        stalls = fate < self.failing_windows + self.stalling_windows
        num_tokens = 0 if stalls else min(request.max_new_tokens, remaining)
        stops = num_tokens > 0 and num_tokens == remaining
        sampled = [10] * num_tokens
        if stops:
            sampled[-1] = STOP_TOKEN
        spans = (VersionSpan(oldest, num_tokens // 2), VersionSpan(newest, num_tokens - num_tokens // 2))
        return Window(
            *request.key,
            tokens(sampled),
            logprobs([-1.0] * num_tokens),
            tuple(span for span in spans if span.num_tokens),
            FinishReason.STOP if stops else FinishReason.LENGTH,
        )

    def score(self, request: RewardRequest) -> Score:
        source = self._source("score", request.key)
        if source.random() < self.failing_scores:
            return Score(*request.key, source.choice(list(ScoreStatus)[1:]))
        return Score(*request.key, ScoreStatus.SCORED, float(source.randint(0, 1)))

    def _source(self, *key: object) -> random.Random:
        return random.Random(f"{self.seed}/{key}")


@dataclass
class LiveRun:
    """A learner and its surroundings; one event after the other, drawn by chance."""

    config: Config
    world: World
    chance: random.Random
    log: Log = field(default_factory=list)
    num_read: int = 0
    num_answered_windows: int = 0
    num_answered_scores: int = 0
    leased: list[tuple[WindowRequest, int]] = field(default_factory=list)  # with the weights' version at the start

    def __post_init__(self) -> None:
        self.reader = Reader(self.config)

    def to_the_end(self) -> "LiveRun":
        """Until the last step. A deadlock would be an endless row of events."""
        for _ in range(MAX_EVENTS):
            if self.reader.is_over:
                return self
            self.chance.choice((self._lease, self._generate, self._score, self._duplicate, self._read, self._train))()
            self._check()
        raise AssertionError("the run does not end")

    def _lease(self) -> None:
        if self.num_answered_windows + len(self.leased) < len(self.reader.window_requests):
            request = self.reader.window_requests[self.num_answered_windows + len(self.leased)]
            self.leased.append((request, self.chance.randint(request.min_policy_version, self.reader.version)))

    def _generate(self) -> None:
        if self.leased:
            request, oldest = self.leased.pop(self.chance.randrange(len(self.leased)))
            self.num_answered_windows += 1
            newest = self.chance.randint(oldest, self.reader.version)
            self._answer(self.world.window(request, oldest=oldest, newest=newest))

    def _score(self) -> None:
        if self.num_answered_scores < len(self.reader.reward_requests):
            self._answer(self.world.score(self.reader.reward_requests[self.num_answered_scores]))
            self.num_answered_scores += 1

    def _duplicate(self) -> None:
        """An answer comes twice; another generator's answer to the same request is not the same answer."""
        if self.log and self.chance.random() < 0.2:
            record = self.chance.choice(self.log)[1]
            if isinstance(record, Window) and record.tokens:
                record = replace(record, logprobs=logprobs([-9.0] * len(record.tokens)))
            self._append(record)

    def _answer(self, record: Window | Score) -> None:
        """Perhaps with poison in its place."""
        if self.chance.random() < self.world.poisoned_answers:
            with pytest.raises(RejectedError) as rejected:
                self.reader.manager.border.admit(codec.encode_inbox_record(poisoned(record)))
            self._append(rejected.value)
        else:
            self._append(record)

    def _append(self, record: InboxRecord | RejectedError) -> None:
        self.log.append(((1000, len(self.log)), record))

    def _read(self) -> None:
        count = self.chance.randint(0, len(self.log) - self.num_read)
        self.reader.read(self.log[self.num_read : self.num_read + count])
        self.num_read += count

    def _train(self) -> None:
        if self.reader.in_training:
            self.reader.end_step()
        else:
            self.reader.begin_step()

    def _check(self) -> None:
        equation = self.reader.manager.ledger.conservation()
        assert equation.holds, equation
        assert equation.in_flight <= self.config.run.max_windows_out


def poisoned(record: Window | Score) -> Window | Score:
    """The same answer, with a number that no run has."""
    if isinstance(record, Score):
        return replace(record, status=ScoreStatus.SCORED, score=math.nan)
    return replace(record, tokens=tokens([-1]), logprobs=logprobs([-1.0]), version_spans=(VersionSpan(0, 1),))


def a_run_config(mode: str, *, warmup_steps: int = 0, **run: Any) -> Config:
    sizes = {"total_training_steps": 5, "rollouts_per_step": 3, "window_length": 3, "max_response_length": 8}
    data = {"train_files": ["train.jsonl"], "shuffle": False}  # so that the n-th rollout is named 0-n-0
    return a_config(run=sizes | run | {"mode": mode}, data=data, critic={"warmup_steps": warmup_steps})


def replayed_at_once(config: Config, log: Log) -> Reader:
    """The whole log is read before the first step."""
    reader = Reader(config)
    reader.read(log)
    reader.catch_up()
    return reader


def replayed_in_chunks(config: Config, log: Log, chance: random.Random, *, max_chunk: int) -> Reader:
    """Chunks of at most `max_chunk` records, read before, within and after the steps."""
    reader = Reader(config)
    first = 0
    while first < len(log):
        count = chance.randint(1, max_chunk)
        reader.read(log[first : first + count])
        first += count
        if chance.random() < 0.5:
            reader.end_step()
            reader.begin_step()
    reader.catch_up()
    return reader


def replayed_one_by_one(config: Config, log: Log) -> Reader:
    """Every step that is possible is taken before the next record is read."""
    reader = Reader(config)
    for entry in log:
        reader.read([entry])
        reader.catch_up()
    return reader
