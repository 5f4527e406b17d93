"""Evaluation rounds: fixed prompts, sampled in one window by the same generators, scored as in training, never trained.

A round requests all its prompts at once, each once or several times, and is over when each response is scored or
parked. Training goes on meanwhile, so a round in the middle of a run may hold tokens of more than one version;
`Evaluation` says which.

The prompts are those of one main set, by which a round is compared with others, and of further sets.

Where every prompt of the main set has a worked solution, a round also needs the solutions' probabilities under the
weights of its step: `awaits_solutions` between `start` and `add_solutions`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from learner.rollouts.ledger import Ledger
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout, State
from tppo.rollout import EVALUATION_PREFIX
from tppo.run_folder.metric_lines import ACCURACY, EXACT_ACCURACY, MeasuredAccuracy, deciding_accuracy
from tppo.scoring.pass_at_k import Vote, best_at_k, estimate, ks_up_to, majority_at_k


@dataclass(frozen=True, slots=True)
class SolutionProbabilities:
    """How likely the policy was to answer each prompt by its worked solution, and what it took to find out."""

    probabilities: Sequence[float]
    seconds: float


@dataclass(frozen=True, slots=True)
class SourceAccuracy:
    """Of the prompts of one data source, or of one named set; None where too few responses of each were scored."""

    num_samples: int  # of each prompt
    mean: float | None
    best: Mapping[int, float | None] = field(default_factory=dict)  # by k, from 2 on
    majority: Mapping[int, float | None] = field(default_factory=dict)  # by k as well; empty without answers


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a round found; accuracy, length and groups are those of the main set, counts and versions those of all."""

    step: int
    num_scored: int
    num_unscored: int
    accuracy: float | None  # mean over the prompts of their mean score; None when nothing was scored
    accuracy_stderr: float | None  # standard error of the mean
    mean_response_length: float | None  # tokens of scored responses
    oldest_policy_version: int
    newest_policy_version: int
    accuracy_by_group: Mapping[str, float] = field(default_factory=dict)  # of groups in which something was scored
    accuracy_by_source: Mapping[str, SourceAccuracy] = field(default_factory=dict)
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
    prompts: Sequence[Prompt]  # those of the main set first
    samples_per_prompt: int = 1
    gathered: dict[int, list[Rollout]] = field(default_factory=dict)  # by step, of rounds under way
    finished_steps: set[int] = field(default_factory=set)
    solutions: dict[int, SolutionProbabilities] = field(default_factory=dict)  # by step, of rounds under way
    _awaits_solutions: set[int] = field(default_factory=set)

    @property
    def is_under_way(self) -> bool:
        """Whether a round waits for windows or scores."""
        return bool(self.gathered)

    @property
    def main_prompts(self) -> Sequence[Prompt]:
        """Of the set by which a round is compared with others."""
        return [prompt for prompt in self.prompts if prompt.set_name == self.prompts[0].set_name]

    def start(self, step: int, *, min_policy_version: int) -> None:
        """Request every prompt, as often as it is sampled."""
        if not self.prompts or self.has_begun(step):
            return
        self.gathered[step] = []
        if all(prompt.solution is not None for prompt in self.main_prompts):
            self._awaits_solutions.add(step)
        samples = ((number, sample) for number in range(len(self.prompts)) for sample in range(self.samples_per_prompt))
        for ordinal, (number, sample) in enumerate(samples):
            name = self._name(step, number, sample)
            rollout = self.ledger.start(name, self.prompts[number], ordinal=ordinal, is_evaluation=True)
            self.ledger.request_window(rollout, cohort=0, min_policy_version=min_policy_version)

    def _name(self, step: int, number: int, sample: int) -> str:
        """The id of a rollout; it names the sample only where there are several."""
        name = f"{EVALUATION_PREFIX}-{step}-{number}"
        return name if self.samples_per_prompt == 1 else f"{name}-{sample}"

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
        num_responses = len(self.prompts) * self.samples_per_prompt
        return len(self.gathered[step]) == num_responses and step not in self._awaits_solutions

    def _summary(self, step: int, rollouts: Sequence[Rollout], solutions: SolutionProbabilities | None) -> Evaluation:
        evaluation = _sampled(step, rollouts, self.prompts[0].set_name, self.samples_per_prompt)
        if solutions is None:
            return evaluation
        pairs = list(zip(self.main_prompts, solutions.probabilities, strict=True))
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


def _sampled(step: int, rollouts: Sequence[Rollout], main_set: str, samples_per_prompt: int) -> Evaluation:
    scored = [row for row in rollouts if row.state is State.READY and row.score is not None]
    main = [row for row in scored if row.prompt.set_name == main_set]
    accuracy = estimate([_mean_score(rows) for rows in _by_prompt(main)])
    versions = [found for row in rollouts if (found := row.sampled_versions())]
    return Evaluation(
        step=step,
        num_scored=len(scored),
        num_unscored=len(rollouts) - len(scored),
        accuracy=accuracy.mean if accuracy else None,
        accuracy_stderr=accuracy.stderr if accuracy else None,
        mean_response_length=_mean([len(row.response_tokens) for row in main]) if main else None,
        oldest_policy_version=min(map(min, versions), default=-1),
        newest_policy_version=max(map(max, versions), default=-1),
        accuracy_by_group=_means_by_group((row.prompt.group, row.score) for row in main if row.score is not None),
        accuracy_by_source={
            source: _source_accuracy(rows, samples_per_prompt) for source, rows in _by_source(rollouts).items()
        },
    )


def _by_source(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """Named by the set, else by the data source; in the order of the prompts."""
    found: dict[str, list[Rollout]] = defaultdict(list)
    for row in sorted(rollouts, key=lambda row: row.ordinal):
        found[row.prompt.set_name or row.prompt.data_source].append(row)
    return found


def _by_prompt(rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    found: dict[int, list[Rollout]] = defaultdict(list)
    for row in sorted(rollouts, key=lambda row: row.ordinal):
        found[row.prompt.index].append(row)
    return list(found.values())


def _source_accuracy(rollouts: Sequence[Rollout], num_samples: int) -> SourceAccuracy:
    """A response without a score counts for nothing, and a prompt with fewer than k scores is left out of best@k."""
    prompts = _by_prompt(row for row in rollouts if row.state is State.READY and row.score is not None)
    mean = estimate([_mean_score(rows) for rows in prompts])
    ks = [k for k in ks_up_to(num_samples) if k > 1]
    has_answers = any(row.answer for rows in prompts for row in rows)
    return SourceAccuracy(
        num_samples,
        mean.mean if mean else None,
        {k: _best(prompts, k) for k in ks},
        {k: _majority(prompts, k) for k in ks if has_answers},
    )


def _best(prompts: Sequence[Sequence[Rollout]], k: int) -> float | None:
    found = estimate([best_at_k([row.score or 0.0 for row in rows], k) for rows in prompts if len(rows) >= k])
    return found.mean if found else None


def _majority(prompts: Sequence[Sequence[Rollout]], k: int) -> float | None:
    votes = [[Vote(row.answer, row.score or 0.0) for row in rows] for rows in prompts if len(rows) >= k]
    found = estimate([majority_at_k(one, k) for one in votes])
    return found.mean if found else None


def _mean_score(rows: Sequence[Rollout]) -> float:
    return _mean([row.score for row in rows if row.score is not None])
