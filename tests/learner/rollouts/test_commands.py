"""When an operator's command is due, and what becomes of parked work."""

import json
from collections.abc import Iterable

import pytest

from learner.rollouts.commands import Commands
from learner.rollouts.ledger import RETRIED
from learner.rollouts.rollout import State
from tests.learner.builders import a_failed_score, a_score, a_window
from tests.learner.rollouts.test_scheduler import a_reader, asked, names
from tests.learner.simulation import Reader
from tppo.rollout import Action, Command


def a_command(name: str, action: Action = Action.SET, **arguments: object) -> Command:
    return Command(name, action, {key: json.dumps(value) for key, value in arguments.items()}, 1.0, "me")


def outcomes(commands: Commands) -> dict[str, str]:
    return {one["command_id"]: one["outcome"] for one in commands.newest(10)}


def test_a_command_is_due_when_a_steps_last_row_lies_behind_it() -> None:
    commands = Commands()
    for number, name in ((2, "a"), (5, "b"), (7, "c")):
        commands.enter((1, number), a_command(name))

    assert [command.command_id for command in commands.due((1, 5))] == ["a"]
    assert [command.command_id for command in commands.due((1, 8))] == ["b", "c"]
    assert commands.due((1, 9)) == []


def test_a_duplicate_command_counts_once() -> None:
    commands = Commands()
    commands.enter((1, 1), a_command("a", Action.PAUSE))
    commands.enter((1, 2), a_command("b", Action.RESUME))
    commands.enter((1, 3), a_command("a", Action.PAUSE))

    assert not commands.is_paused
    assert outcomes(commands) == {"a": "done", "b": "done"}


def test_a_checkpoint_request_is_taken_once() -> None:
    commands = Commands()
    commands.enter((1, 1), a_command("a", Action.CHECKPOINT))

    assert [commands.take_checkpoint_request(), commands.take_checkpoint_request()] == [True, False]


def test_waiting_and_finished_commands_survive_a_checkpoint() -> None:
    commands, restored = Commands(), Commands()
    commands.enter((1, 1), a_command("a", Action.PAUSE))
    commands.enter((1, 2), a_command("b", key="actor.lr", value=1.0))
    commands.settings["critic.lr"] = 2.0
    commands.stop_after_step = 9

    restored.restore(json.loads(json.dumps(commands.state())))

    assert restored == commands


def retry(reader: Reader, rollout_ids: Iterable[str]) -> None:
    for row in reader.manager.ledger.parked(rollout_ids):
        row.is_retry_due = True


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
def test_a_failed_window_is_requested_again_in_place_of_a_new_prompt(mode: str) -> None:
    reader, answers = a_reader(mode, size=2)
    answers.failed("0-0-0")
    answers.window("0-1-0")
    if mode == "streaming":
        answers.window("0-2-0")
    retry(reader, ["0-0-0"])
    num_asked = len(reader.window_requests)

    answers.step()

    fresh = asked(reader.window_requests[num_asked:])
    assert ("0-0-0", 1) in fresh  # a window of its own: an answer to the former one is late
    assert len(fresh) == (3 if mode == "streaming" else 2)  # as many as have become free
    ledger = reader.manager.ledger
    assert ledger.rollouts["0-0-0"].state is State.REQUESTED
    assert ledger.dropped == {RETRIED: 1}
    assert ledger.conservation().holds


def test_a_failed_score_is_requested_again_and_trained() -> None:
    reader, answers = a_reader("streaming", size=2)
    answers._enter(a_window("0-0-0", num_tokens=1, stops=True))
    for attempt in range(3):
        answers._enter(a_failed_score("0-0-0", attempt=attempt))
    answers.window("0-1-0")
    answers.window("0-2-0")
    ledger = reader.manager.ledger
    assert ledger.rollouts["0-0-0"].state is State.PARKED

    retry(reader, ["0-0-0"])
    answers.step()
    answers._enter(a_score("0-0-0", attempt=3))

    assert reader.reward_requests[-1].key == ("0-0-0", 3)
    assert names(ledger.ready) == ["0-0-0"]
    assert ledger.conservation().holds


def test_a_retried_score_has_as_many_attempts_as_before() -> None:
    reader, answers = a_reader("streaming", size=2)
    answers._enter(a_window("0-0-0", num_tokens=1, stops=True))
    limit = reader.config.reward.max_attempts
    for attempt in range(limit):
        answers._enter(a_failed_score("0-0-0", attempt=attempt))
    answers.window("0-1-0")
    answers.window("0-2-0")
    retry(reader, ["0-0-0"])
    answers.step()

    for attempt in range(limit, 2 * limit):
        assert reader.manager.ledger.rollouts["0-0-0"].state is State.SCORING
        answers._enter(a_failed_score("0-0-0", attempt=attempt))

    assert reader.manager.ledger.rollouts["0-0-0"].state is State.PARKED


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
def test_what_is_dropped_has_its_reason_and_its_place_is_filled(mode: str) -> None:
    reader, answers = a_reader(mode, size=2)
    num_out = len(reader.window_requests)
    answers.failed("0-0-0")
    answers.window("0-1-0")
    if mode == "streaming":
        answers.window("0-2-0")
    (row,) = reader.manager.ledger.parked()

    reader.manager.ledger.drop(row, "no use")
    answers.step()

    conservation = reader.manager.ledger.conservation()
    assert conservation.holds
    assert (conservation.parked, conservation.dropped, conservation.in_flight) == (0, 1, num_out)
    assert reader.manager.ledger.dropped == {"no use": 1}


def test_another_lag_admits_more_windows_and_then_fewer() -> None:
    reader, answers = a_reader("streaming", size=2, steps=50)  # lag 1: four windows are out

    def out_after_a_step() -> int:
        states = reader.manager.ledger.rollouts.values()
        for row in [row for row in states if row.state is State.REQUESTED][:2]:
            answers.window(row.rollout_id, row.window_index)
        answers.step()
        return reader.manager.ledger.conservation().in_flight

    reader.manager.scheduler.set_policy_lag(2)
    more = out_after_a_step()
    reader.manager.scheduler.set_policy_lag(0)
    fewer = [out_after_a_step(), out_after_a_step()]

    assert (more, fewer) == (6, [4, 2])
