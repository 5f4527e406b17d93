"""Prompts that were skipped leave gaps in the numbers of the rows, which a checkpoint has to bridge."""

from learner.rollouts import ledger_state
from learner.rollouts.manager import RolloutManager, open_manager
from tests.learner.builders import a_config, a_prompt, a_window, ending, kept, rules_of
from tppo.rollout import FinishReason


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

    ledger_state.restore(restored, kept(ledger_state.captured(manager)))

    found = {rollout_id: rollout.prompt.index for rollout_id, rollout in restored.ledger.rollouts.items()}
    assert found == {"0-0-0": 1, "0-1-0": 5, "eval-0-0": 1, "eval-0-1": 5, "eval-0-2": 6}


def test_a_checkpoint_keeps_which_tokens_were_sampled_and_an_older_one_had_sampled_all() -> None:
    manager = a_manager_of_rows(0, 1)
    manager.scheduler.open(0)
    window = ending(a_window("0-0-0", num_tokens=4), FinishReason.TOOL, not_sampled=[1, 2])
    manager.enter((1, 0), window)
    manager.enter((2, 0), a_window("0-1-0", num_tokens=3))
    state, older = kept(ledger_state.captured(manager)), kept(ledger_state.captured(manager))
    del older.tensors["sampled_mask"]
    for rollout in older.plain["rollouts"]:
        del rollout["lengths"]["sampled_mask"], rollout["has_short_windows"]

    restored, of_older = a_manager_of_rows(0, 1), a_manager_of_rows(0, 1)
    ledger_state.restore(restored, state)
    ledger_state.restore(of_older, older)

    assert restored.ledger.rollouts == manager.ledger.rollouts
    assert restored.ledger.rollouts["0-0-0"].is_sampled() == b"\1\0\0\1"
    assert [row.is_sampled() for row in of_older.ledger.ready] == [b"\1\1\1\1", b"\1\1\1"]
