"""Everything that the learner knows of rollouts: ledger, scheduler, evaluator and commands over one set of them."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from learner.rollouts.border import Border, RolloutIds
from learner.rollouts.commands import Commands
from learner.rollouts.evaluation import Evaluator
from learner.rollouts.ledger import Ledger
from learner.rollouts.prompts import Prompt, PromptOrder
from learner.rollouts.requests import RequestRules
from learner.rollouts.scheduler import Scheduler
from tppo.config.schema import Config, DataSection, RunSection
from tppo.rollout import Command, InboxRecord, Window
from tppo.security.envelope import Records


@dataclass(frozen=True, slots=True)
class RolloutManager:
    """The one entrance for records of the inbox, and what a checkpoint captures."""

    ledger: Ledger
    scheduler: Scheduler
    evaluator: Evaluator
    commands: Commands
    num_skipped_prompts: int  # rows of the data files that are too long
    border: Border

    def enter(self, position: tuple[int, int], record: InboxRecord) -> None:
        """Apply a record of the inbox; a duplicate is counted and dropped."""
        if isinstance(record, Window):
            self.ledger.add_window(position, record)
        elif isinstance(record, Command):
            self.commands.enter(position, record)
        else:
            self.ledger.add_score(position, record)

    def reading(self, records: Records) -> "RolloutManager":
        """The same, for an inbox whose payloads are read so."""
        return replace(self, border=replace(self.border, records=records))

    def reconfigure(self, config: Config) -> None:
        """From now on by this configuration, whose keys that define the run are the same."""
        self.scheduler.run, self.scheduler.num_cohort_steps = config.run, config.critic.warmup_steps
        self.ledger.rules = replace(
            self.ledger.rules,
            max_score_attempts=config.reward.max_attempts,
            temperature=config.generation.temperature,
            evaluation_temperature=config.evaluation.temperature,
        )


def open_manager(
    run: RunSection,
    data: DataSection,
    rules: RequestRules,
    *,
    num_cohort_steps: int,
    prompts: Sequence[Prompt],
    evaluation_prompts: Sequence[Prompt],
    num_evaluation_samples: int = 1,
    num_skipped_prompts: int = 0,
    decode: Callable[["array[int]"], str],
    vocabulary_size: int | None = None,
) -> RolloutManager:
    """The manager of a run that has not begun; `num_cohort_steps` as in `Scheduler`."""
    order = PromptOrder(len(prompts), data.samples_per_prompt, run.seed, data.shuffle)

    def is_past(rollout_id: str) -> bool:
        return scheduler.is_past(rollout_id) or evaluator.is_past(rollout_id)

    ledger = Ledger(rules, decode, is_past)
    scheduler = Scheduler(ledger, prompts, order, run, num_cohort_steps)
    evaluator = Evaluator(ledger, evaluation_prompts, num_evaluation_samples)
    ids = RolloutIds(order, len(evaluation_prompts), num_evaluation_samples)
    border = Border(ids, vocabulary_size, run.max_response_length, run.window_length)
    return RolloutManager(ledger, scheduler, evaluator, Commands(), num_skipped_prompts, border)
