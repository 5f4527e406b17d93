"""Operators' commands in a running learner, and in its replay."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.rollouts.ledger import RETRIED
from learner.steering import Steering
from tests.learner.builders import a_failed_window
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import (
    STEPS,
    ArchivedStreams,
    Laboratory,
    killed_at,
    replay,
    to_the_end,
)
from tests.support.waiting import DEADLINE_SECONDS
from tppo import codec
from tppo.config.presets import Algorithm
from tppo.rollout import Action, Command
from tppo.run_folder.checkpoints import CheckpointFolder


def a_command(name: str, action: Action, **arguments: Any) -> Command:
    return Command(name, action, {key: json.dumps(value) for key, value in arguments.items()})


async def put(streams: ArchivedStreams, *commands: Command) -> None:
    await streams.inbox.append([codec.encode_inbox_record(command) for command in commands])


def answers(steering: Steering) -> dict[str, tuple[str, str]]:
    return {one["command_id"]: (one["outcome"], one["text"]) for one in steering.status()["commands"]}


async def test_a_changed_rate_and_temperature_survive_a_kill_and_are_replayed_bit_for_bit(
    laboratory: Laboratory,
) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()
    await put(
        streams,
        a_command("a", Action.SET, key="actor.lr", value=5e-2),
        a_command("b", Action.SET, key="generation.temperature", value=0.7),
    )
    await killed_at(4, laboratory.learner("run", streams, transport), streams, transport)
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)
    await replay(laboratory, "replay", streams)

    weights, replayed = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)
    assert service.steering.status()["settings"] == {"actor.lr": 5e-2, "generation.temperature": 0.7}
    rates = [line["actor/lr"] for line in laboratory.lines("run") if line["kind"] == "step" and "actor/lr" in line]
    assert rates[-1] > 10 * laboratory.config.actor.lr * laboratory.config.actor.min_lr_ratio / 3
    assert max(rates) > laboratory.config.actor.lr


@pytest.mark.parametrize("algorithm", ["ppo-ewma", "geppo"])
async def test_systems_that_compare_with_earlier_weights_train_on_under_another_temperature(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", algorithm)
    streams, transport = ArchivedStreams(), FakeTransport()
    await put(streams, a_command("a", Action.SET, key="generation.temperature", value=0.7))
    await killed_at(4, laboratory.learner("run", streams, transport), streams, transport)
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)
    await replay(laboratory, "replay", streams)

    weights, replayed = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert answers(service.steering)["a"] == ("done", "generation.temperature = 0.7")
    assert service.step == STEPS
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)


async def test_a_paused_run_takes_no_step_until_it_is_resumed(laboratory: Laboratory) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()
    await put(streams, a_command("a", Action.PAUSE))
    service = laboratory.learner("run", streams, transport)
    run = asyncio.create_task(to_the_end(service, streams, transport))
    while not service.steering.is_paused:  # noqa: ASYNC110 - the service has no event for this
        await asyncio.sleep(0.001)
    paused_at = service.step
    await asyncio.sleep(0.2)
    still_at = service.step

    await put(streams, a_command("b", Action.RESUME))
    await asyncio.wait_for(run, timeout=DEADLINE_SECONDS)

    assert still_at - paused_at <= 1  # the step that was under way
    assert service.step == STEPS


async def test_a_run_stops_after_the_requested_step_and_resumes(laboratory: Laboratory) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()
    await put(streams, a_command("a", Action.STOP_AFTER_STEP, step=3))
    first = laboratory.learner("run", streams, transport)
    await to_the_end(first, streams, transport)
    stopped_at, was_over = first.step, first.steering.is_over(first.step)

    second = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(second, streams.reopened(), transport)

    assert (stopped_at, was_over) == (3, True)
    assert (second.step, second.steering.is_over(second.step)) == (STEPS, False)
    steps = [line["step"] for line in laboratory.lines("run") if line["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))


async def test_a_rollback_ends_the_learner_with_the_requested_version(laboratory: Laboratory) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()
    await put(streams, a_command("stop", Action.STOP_AFTER_STEP, step=3))
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    version = CheckpointFolder(laboratory.folder / "run" / "checkpoints").committed()[0]["step"]

    await put(streams, a_command("a", Action.ROLL_BACK, version=version))
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)

    assert service.steering.roll_back_to == version
    assert answers(service.steering)["a"] == ("done", f"the run rolls back to version {version}")


async def test_what_is_parked_for_one_cause_is_retried_and_for_another_dropped_exactly_once_and_replayed_bit_for_bit(
    tmp_path: Path,
) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    errors = {"0-0-0": "KeyError: 'a'", "0-1-0": "KeyError: 'b'", "0-2-0": "ValueError: c"}
    failed = [a_failed_window(rollout, error=error) for rollout, error in errors.items()]
    await streams.inbox.append([codec.encode_inbox_record(window) for window in failed])
    await put(
        streams,
        a_command("retry", Action.RETRY_PARKED, cause="generation failed: KeyError"),
        a_command("drop", Action.DROP_PARKED, cause="generation failed: ValueError: c", reason="hopeless"),
    )
    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)
    replayed = await replay(laboratory, "replay", streams)

    weights, again = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert answers(service.steering) == answers(replayed.steering)
    assert answers(service.steering)["retry"] == ("done", "2 parked rollouts are requested again")
    assert answers(service.steering)["drop"] == ("done", "1 parked rollouts are dropped: hopeless")
    last = [line for line in laboratory.lines("run") if line["kind"] == "step"][-1]
    assert (last["ledger/parked"], last["ledger/dropped/hopeless"]) == (0, 1)
    assert last[f"ledger/dropped/{RETRIED}"] == 2


@pytest.mark.parametrize(
    ("action", "arguments", "why"),
    [
        (Action.SET, {"key": "run.seed", "value": 1}, "'run.seed' does not change in a run"),
        (Action.SET, {"key": "actor.lr", "value": 0}, "actor.lr = 0; expected a number above 0"),
        (Action.SET, {"key": "actor.lr", "value": "fast"}, "actor.lr = 'fast'; expected a finite number"),
        (Action.SET, {"key": "run.max_policy_lag", "value": math.inf}, "run.max_policy_lag = inf; expected a finite"),
        (Action.SET, {"key": "actor.lr", "value": 10**400}, "actor.lr = 1000"),
        (Action.ROLL_BACK, {"version": 77}, "version = 77: no such checkpoint; expected one of"),
        (Action.DROP_PARKED, {"rollouts": ["0-1-0"]}, "0-1-0 is not parked"),
        (Action.RETRY_PARKED, {"rollouts": "all"}, "rollouts = 'all'; expected a list of names"),
        (Action.RETRY_PARKED, {"cause": "no such cause"}, "no rollout is parked for 'no such cause'"),
        (Action.DROP_PARKED, {"cause": 7}, "cause = 7; expected a text"),
        (Action.DROP_PARKED, {"cause": "a", "rollouts": []}, "cause = 'a'; expected a text, and no list of rollouts"),
        (Action.STOP_AFTER_STEP, {"step": "last"}, "step = 'last'; expected a whole number"),
    ],
)
async def test_an_invalid_command_is_refused_with_a_sentence_and_changes_nothing(
    tmp_path: Path, action: Action, arguments: dict[str, Any], why: str
) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    await put(streams, a_command("a", action, **arguments))
    service = laboratory.learner("run", streams, transport)

    await to_the_end(service, streams, transport)

    outcome, text = answers(service.steering)["a"]
    assert outcome == "refused"
    assert text.startswith(why)
    assert service.step == STEPS
    assert service.steering.status()["settings"] == {}


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "no JSON"])
async def test_a_command_whose_arguments_are_no_json_is_refused(tmp_path: Path, text: str) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    await put(streams, Command("a", Action.SET, {"key": text}), Command("b", Action.RECONFIGURE, {"values": text}))
    service = laboratory.learner("run", streams, transport)

    await to_the_end(service, streams, transport)

    assert answers(service.steering)["a"][0] == "refused"
    assert answers(service.steering)["a"][1].endswith("; expected JSON values")
    assert service.step == STEPS
