"""Prompts that were skipped leave gaps in the numbers of the rows, which a checkpoint has to bridge."""

from learner.rollouts import ledger_state
from learner.rollouts.manager import RolloutManager, open_manager
from tests.learner.builders import a_config, a_prompt, rules_of


def a_manager_of_rows(*rows: int) -> RolloutManager:
    config = a_config(run={"rollouts_per_step": 2, "mode": "lockstep"}, data={"shuffle": False, "train_files": ["x"]})
    prompts = [a_prompt(row) for row in rows]
    return open_manager(
        config.run,
        config.data,
        rules_of(config),
        num_cohort_steps=0,
        prompts=prompts,
        evaluation_prompts=prompts,
        decode=str,
    )


def test_a_checkpoint_finds_the_prompts_of_its_rollouts_again() -> None:
    manager, restored = a_manager_of_rows(1, 5, 6), a_manager_of_rows(1, 5, 6)
    manager.scheduler.open(0)
    manager.evaluator.start(0, min_policy_version=0)

    ledger_state.restore(restored, ledger_state.captured(manager))

    found = {rollout_id: rollout.prompt.index for rollout_id, rollout in restored.ledger.rollouts.items()}
    assert found == {"0-0-0": 1, "0-1-0": 5, "eval-0-0": 1, "eval-0-1": 5, "eval-0-2": 6}
