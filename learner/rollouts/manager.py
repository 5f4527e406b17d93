"""The ledger with its clerks, wired together: scheduler, evaluator and commands share one set of rollouts."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from learner.rollouts.commands import Commands
from learner.rollouts.evaluation import Evaluator
from learner.rollouts.ledger import Ledger
from learner.rollouts.prompts import Prompt, PromptOrder
from learner.rollouts.requests import Limits
from learner.rollouts.scheduler import Scheduler
from tppo.config import Config
from tppo.rollout import Command, InboxRecord, Window


@dataclass(frozen=True, slots=True)
class Books:
    """All that the learner knows of rollouts."""

    ledger: Ledger
    scheduler: Scheduler
    evaluator: Evaluator
    commands: Commands

    def enter(self, position: tuple[int, int], record: InboxRecord) -> None:
        """Enter a record of the inbox."""
        if isinstance(record, Window):
            self.ledger.add_window(position, record)
        elif isinstance(record, Command):
            self.commands.enter(position, record)
        else:
            self.ledger.add_score(position, record)


def open_books(
    config: Config,
    *,
    prompts: Sequence[Prompt],
    evaluation_prompts: Sequence[Prompt],
    stop_token_ids: tuple[int, ...],
    decode: Callable[["array[int]"], str],
) -> Books:
    """Empty books for a run."""
    limits = Limits(
        window_length=config.run.window_length,
        max_response_length=config.run.max_response_length,
        max_score_attempts=config.reward.max_attempts,
        stop_token_ids=stop_token_ids,
        temperature=config.generation.temperature,
        evaluation_temperature=config.evaluation.temperature,
        seed=config.run.seed,
    )
    order = PromptOrder(len(prompts), config.data.samples_per_prompt, config.run.seed, config.data.shuffle)

    def is_past(rollout_id: str) -> bool:
        return scheduler.is_past(rollout_id) or evaluator.is_past(rollout_id)

    ledger = Ledger(limits, decode, is_past)
    scheduler = Scheduler(ledger, prompts, order, config.run)
    evaluator = Evaluator(ledger, evaluation_prompts)
    return Books(ledger, scheduler, evaluator, Commands())
