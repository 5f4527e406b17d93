"""Evaluation rounds: fixed prompts, sampled in one window by the same generators, scored as in training, never trained.

A round requests all its prompts at once and is over when each is scored or parked. Training goes on meanwhile, so a
round in the middle of a run may hold tokens of more than one version; `Evaluation` says which.

Where every prompt has a worked solution, a round also needs the solutions' probabilities under the weights of its step:
`awaits_solutions` between `start` and `add_solutions`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from learner.rollouts.ledger import Ledger
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout, State
from tppo.rollout import EVALUATION_PREFIX
from tppo.run_folder.metric_lines import ACCURACY, EXACT_ACCURACY, MeasuredAccuracy, deciding_accuracy


@dataclass(frozen=True, slots=True)
class SolutionProbabilities:
    """How likely the policy was to answer each prompt by its worked solution, and what it took to find out."""

    probabilities: Sequence[float]
    seconds: float


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
    accuracy_by_group: Mapping[str, float] = field(default_factory=dict)  # of groups in which something was scored
    accuracy_exact: float | None = None  # mean probability of the worked solutions; None without solutions
    accuracy_exact_by_group: Mapping[str, float] = field(default_factory=dict)
    exact_seconds: float | None = None  # in which they were computed

    @property
    def deciding(self) -> MeasuredAccuracy | None:
        """By which it is compared with others; None when nothing was measured."""
        return deciding_accuracy({ACCURACY: self.accuracy, EXACT_ACCURACY: self.accuracy_exact})


@dataclass(slots=True)
class Evaluator:
    """Starts rounds and gathers their rollouts."""

    ledger: Ledger
    prompts: Sequence[Prompt]
    gathered: dict[int, list[Rollout]] = field(default_factory=dict)  # by step, of rounds under way
    finished_steps: set[int] = field(default_factory=set)
    solutions: dict[int, SolutionProbabilities] = field(default_factory=dict)  # by step, of rounds under way
    _awaits_solutions: set[int] = field(default_factory=set)

    @property
    def is_under_way(self) -> bool:
        """Whether a round waits for windows or scores."""
        return bool(self.gathered)

    def start(self, step: int, *, min_policy_version: int) -> None:
        """Request every prompt once."""
        if not self.prompts or self.has_begun(step):
            return
        self.gathered[step] = []
        if all(prompt.solution is not None for prompt in self.prompts):
            self._awaits_solutions.add(step)
        for ordinal, prompt in enumerate(self.prompts):
            name = f"{EVALUATION_PREFIX}-{step}-{ordinal}"
            rollout = self.ledger.start(name, prompt, ordinal=ordinal, is_evaluation=True)
            self.ledger.request_window(rollout, cohort=0, min_policy_version=min_policy_version)

    def has_begun(self, step: int) -> bool:
        """Whether the policy of this step was, or is being, evaluated."""
        return step in self.gathered or step in self.finished_steps

    def awaits_solutions(self, step: int) -> bool:
        """Whether the round of this step needs the probabilities of the prompts' solutions."""
        return step in self._awaits_solutions

    def add_solutions(self, step: int, solutions: SolutionProbabilities) -> None:
        """The probabilities under the weights of the step, in the order of the prompts."""
        self._awaits_solutions.remove(step)
        self.solutions[step] = solutions

    def gather(self) -> list[Evaluation]:
        """Takes what was scored since; the rounds that are over now."""
        rollouts, self.ledger.scored_evaluations = self.ledger.scored_evaluations, []
        for rollout in rollouts:
            self.gathered[_step_of(rollout.rollout_id)].append(rollout)
            del self.ledger.rollouts[rollout.rollout_id]
        over = [step for step in self.gathered if self._is_over(step)]
        self.finished_steps.update(over)
        return [self._summary(step, self.gathered.pop(step), self.solutions.pop(step, None)) for step in over]

    def _is_over(self, step: int) -> bool:
        return len(self.gathered[step]) == len(self.prompts) and step not in self._awaits_solutions

    def _summary(self, step: int, rollouts: Sequence[Rollout], solutions: SolutionProbabilities | None) -> Evaluation:
        evaluation = _sampled(step, rollouts)
        if solutions is None:
            return evaluation
        pairs = list(zip(self.prompts, solutions.probabilities, strict=True))
        return replace(
            evaluation,
            accuracy_exact=_mean([probability for _, probability in pairs]),
            accuracy_exact_by_group=_means_by_group((prompt.group, probability) for prompt, probability in pairs),
            exact_seconds=solutions.seconds,
        )

    def is_past(self, rollout_id: str) -> bool:
        """Whether this evaluation rollout was ever started."""
        if not rollout_id.startswith(f"{EVALUATION_PREFIX}-"):
            return False
        return self.has_begun(_step_of(rollout_id))


def _step_of(rollout_id: str) -> int:
    return int(rollout_id.split("-")[1])


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _means_by_group(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Of (group, number); what is of no group is left out."""
    numbers: dict[str, list[float]] = defaultdict(list)
    for group, number in pairs:
        numbers[group].append(number)
    return {group: _mean(of_group) for group, of_group in numbers.items() if group}


def _sampled(step: int, rollouts: Sequence[Rollout]) -> Evaluation:
    scored = [row for row in rollouts if row.state is State.READY]
    scores = [row.score for row in scored if row.score is not None]
    versions = [version for row in rollouts for version in row.token_versions]
    mean = _mean(scores) if scores else 0.0
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
        accuracy_by_group=_means_by_group((row.prompt.group, row.score) for row in scored if row.score is not None),
    )
