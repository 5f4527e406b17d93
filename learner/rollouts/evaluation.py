"""Evaluation rounds: fixed prompts, sampled in one window by the same generators, scored as in training, never trained.

A round requests all its prompts at once and is over when each is scored or parked. Training goes on meanwhile, so a
round in the middle of a run may hold tokens of more than one version; `Evaluation` says which.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from learner.rollouts.ledger import Ledger
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout, State

ID_PREFIX = "eval"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a round found."""

    step: int
    num_scored: int
    num_unscored: int
    accuracy: float | None  # mean score; None when nothing was scored
    accuracy_stderr: float | None  # standard error of the mean
    mean_response_length: float | None  # tokens of scored responses
    oldest_policy_version: int
    newest_policy_version: int


@dataclass(slots=True)
class Evaluator:
    """Starts rounds and gathers their rollouts."""

    ledger: Ledger
    prompts: Sequence[Prompt]
    gathered: dict[int, list[Rollout]] = field(default_factory=dict)  # by step, of rounds under way
    finished_steps: set[int] = field(default_factory=set)

    @property
    def is_under_way(self) -> bool:
        """Whether a round waits for windows or scores."""
        return bool(self.gathered)

    def start(self, step: int, *, min_policy_version: int) -> None:
        """Request every prompt once."""
        if not self.prompts or step in self.gathered or step in self.finished_steps:
            return
        self.gathered[step] = []
        for ordinal, prompt in enumerate(self.prompts):
            rollout = self.ledger.start(f"{ID_PREFIX}-{step}-{ordinal}", prompt, ordinal=ordinal, is_evaluation=True)
            self.ledger.request_window(rollout, cohort=0, min_policy_version=min_policy_version)

    def gather(self) -> list[Evaluation]:
        """Takes what was scored since; the rounds that are over now."""
        rollouts, self.ledger.scored_evaluations = self.ledger.scored_evaluations, []
        for rollout in rollouts:
            self.gathered[_step_of(rollout.rollout_id)].append(rollout)
            del self.ledger.rollouts[rollout.rollout_id]
        over = [step for step, scored in self.gathered.items() if len(scored) == len(self.prompts)]
        self.finished_steps.update(over)
        return [_summary(step, self.gathered.pop(step)) for step in over]

    def is_past(self, rollout_id: str) -> bool:
        """Whether this evaluation rollout was ever started."""
        if not rollout_id.startswith(f"{ID_PREFIX}-"):
            return False
        step = _step_of(rollout_id)
        return step in self.gathered or step in self.finished_steps


def _step_of(rollout_id: str) -> int:
    return int(rollout_id.split("-")[1])


def _summary(step: int, rollouts: Sequence[Rollout]) -> Evaluation:
    scored = [row for row in rollouts if row.state is State.READY]
    scores = [row.score for row in scored if row.score is not None]
    versions = [version for row in rollouts for version in row.token_versions]
    mean = sum(scores) / len(scores) if scores else 0.0
    variance = sum((score - mean) ** 2 for score in scores) / max(1, len(scores) - 1)
    return Evaluation(
        step=step,
        num_scored=len(scores),
        num_unscored=len(rollouts) - len(scores),
        accuracy=mean if scores else None,
        accuracy_stderr=math.sqrt(variance / len(scores)) if scores else None,
        mean_response_length=sum(len(row.response_tokens) for row in scored) / len(scored) if scored else None,
        oldest_policy_version=min(versions, default=-1),
        newest_policy_version=max(versions, default=-1),
    )
