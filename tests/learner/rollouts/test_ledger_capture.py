"""A checkpoint is of one moment: the manager goes on while it is written, and the event loop makes little for it."""

import gc
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rollouts.ledger_state import NUM_AT_ONCE, PART_BYTES, LedgerCapture, LedgerState, captured
from learner.rollouts.manager import RolloutManager
from tests.learner.builders import a_config, a_manager, a_window, ending, kept
from tests.learner.rollouts.test_replayed_inbox import live_runs
from tests.learner.simulation import LiveRun, replayed_at_once
from tppo.rollout import FinishReason


def a_manager_with(num_rollouts: int, *, window_length: int = 4) -> RolloutManager:
    """All of them requested."""
    sizes = {"rollouts_per_step": num_rollouts, "window_length": window_length, "max_response_length": 100_000}
    config = a_config(run={**sizes, "mode": "lockstep"}, data={"shuffle": False, "train_files": ["train.jsonl"]})
    manager = a_manager(config, num_prompts=num_rollouts)
    manager.scheduler.open(0)
    return manager


def assert_same(one: LedgerState, other: LedgerState) -> None:
    assert one.plain == other.plain
    assert {name: tensor.tolist() for name, tensor in one.tensors.items()} == {
        name: tensor.tolist() for name, tensor in other.tensors.items()
    }


@settings(max_examples=60)
@given(live=live_runs(has_poison=True), share=st.floats(0, 1))
def test_what_happens_while_a_checkpoint_is_written_is_not_in_it(live: LiveRun, share: float) -> None:
    live.to_the_end()
    middle = int(share * len(live.log))
    learner = replayed_at_once(live.config, live.log[:middle])
    capture = captured(learner.manager)
    at_once = kept(capture)

    learner.read(live.log[middle:])
    learner.catch_up()

    assert_same(kept(capture), at_once)


def test_what_a_response_grows_by_is_not_in_the_checkpoint_before() -> None:
    manager = a_manager_with(1)
    manager.enter((1, 0), ending(a_window("0-0-0"), FinishReason.TOOL, not_sampled=[1]))
    capture = captured(manager)
    row = manager.ledger.rollouts["0-0-0"]

    row.extend(a_window("0-0-0", 1, num_tokens=3), max_length=100)
    manager.commands.settings["actor.lr"] = 1.0

    assert row.is_sampled() == b"\1\0\1\1\1\1\1"
    state = kept(capture)
    assert state.tensors["sampled_mask"].tolist() == [1, 0, 1, 1]
    assert state.tensors["response_tokens"].tolist() == [10, 11, 12, 13]
    assert state.plain["commands"]["settings"] == {}


def num_tracked_by_capture(num_rollouts: int) -> int:
    """Objects of it that the garbage collector looks at."""
    manager = a_manager_with(num_rollouts)
    gc.disable()
    try:
        before = len(gc.get_objects())
        capture = captured(manager)
        return len(gc.get_objects()) - before - isinstance(capture, LedgerCapture)
    finally:
        gc.enable()


def test_a_capture_gives_the_garbage_collector_no_more_to_look_at_for_more_rollouts() -> None:
    num_tracked_by_capture(10)  # makes what is made once

    assert num_tracked_by_capture(1000) == num_tracked_by_capture(10) > 0


def test_text_comes_in_parts_of_so_many_rollouts() -> None:
    manager = a_manager_with(2 * NUM_AT_ONCE + 1)

    parts = list(captured(manager).json_parts())

    num_in_each = [part.count('"rollout_id"') for part in parts]
    assert [num for num in num_in_each if num] == [NUM_AT_ONCE, NUM_AT_ONCE, 1]
    rollouts = json.loads("".join(parts))["rollouts"]
    assert [one["rollout_id"] for one in rollouts] == list(manager.ledger.rollouts)


def test_bytes_come_in_parts_of_one_size_and_a_response() -> None:
    num_tokens = PART_BYTES // 16  # of four bytes each: four responses fill a part
    manager = a_manager_with(9, window_length=num_tokens)
    for number in range(9):
        manager.enter((number, 0), a_window(f"0-{number}-0", num_tokens=num_tokens))

    parts = {facts.name: [len(part) for part in parts] for facts, parts in captured(manager).tensors().items()}

    assert parts["response_tokens"] == [PART_BYTES, PART_BYTES, PART_BYTES // 4]
    assert parts["sampled_mask"] == [0]
