"""A run that is resumed with other settings: what may change enters the inbox, and a replay does the same."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.commands.replay.records import with_places
from learner.persistence import rollback
from learner.persistence.archive import InboxArchive
from learner.persistence.definition import with_values
from learner.persistence.run_identity import begin_incarnation
from learner.reconfiguration import Change, change_in
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import (
    STEPS,
    ArchivedStreams,
    Laboratory,
    killed_at,
    killing,
    replay,
    step_reached,
    to_the_end,
)
from tppo.codec import encode_inbox_record
from tppo.config import ConfigError
from tppo.rollout import Action, Command
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.streams import InboxEntry, MemoryStreams
from tppo.streams.contract import BEGINNING, position_of

MODES = ["lockstep", "overlapped", "streaming"]
EXTENDED = {"run.total_training_steps": STEPS + 4, "actor.lr": 3e-2, "critic.weight_decay": 0.1}


async def changes(streams: MemoryStreams) -> list[Change]:
    entries = await streams.inbox.read(BEGINNING, max_count=10**6, wait_seconds=0)
    found = (change_in(entry.payload) for entry in entries)
    return [change for change in found if change is not None]


async def assert_replayed(laboratory: Laboratory, beginning: Any, streams: MemoryStreams) -> None:
    """A replay that begins with the first configuration ends with the run's weights."""
    weights = laboratory.final_weights("run")
    laboratory.config = beginning
    await replay(laboratory, "replay", streams)
    replayed = laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)


async def killed_behind_a_checkpoint(laboratory: Laboratory, streams: MemoryStreams, transport: FakeTransport) -> None:
    """At step 4 or later."""
    service = laboratory.learner("run", streams, transport)
    async with killing(to_the_end(service, streams, transport)):
        await step_reached(service, 4)
        while CheckpointFolder(laboratory.folder / "run" / "checkpoints").newest() is None:  # noqa: ASYNC110 - files have no event
            await asyncio.sleep(0.001)


def steps_of(laboratory: Laboratory) -> list[int]:
    return [line["step"] for line in laboratory.lines("run") if line["kind"] == "step"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_finished_run_that_is_extended_with_another_rate_is_replayed_bit_for_bit(
    tmp_path: Path, mode: str
) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, mode), ArchivedStreams(), FakeTransport()
    beginning = laboratory.config
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    finished = laboratory.final_weights("run")

    laboratory.config = with_values(beginning, EXTENDED)
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)

    assert steps_of(laboratory) == list(range(1, STEPS + 5))
    assert not all(torch.equal(tensor, finished[name]) for name, tensor in laboratory.final_weights("run").items())
    (change,) = await changes(streams)
    assert (change.after_step, change.values) == (STEPS, EXTENDED)
    last = [line for line in laboratory.lines("run") if line["kind"] == "step"][-1]
    assert last["ledger/issued"] == last["ledger/trained"] == (STEPS + 4) * 6
    await assert_replayed(laboratory, beginning, streams)


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_changed_in_the_middle_and_killed_behind_the_change_is_replayed_bit_for_bit(
    tmp_path: Path, mode: str
) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, mode), ArchivedStreams(), FakeTransport()
    beginning = laboratory.config
    await killed_behind_a_checkpoint(laboratory, streams, transport)
    values = {"actor.lr": 3e-2, "run.max_token_lag": 3, "evaluation.test_freq": 4, "generation.temperature": 0.8}
    laboratory.config = with_values(beginning, values)
    changed_first = laboratory.learner("run", streams.reopened(), transport)
    await killed_at(changed_first.step + 1, changed_first, streams.reopened(), transport)
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)

    assert steps_of(laboratory) == list(range(1, STEPS + 1))
    (change,) = await changes(streams)
    assert change.values == values
    await assert_replayed(laboratory, beginning, streams)


async def test_two_changes_at_different_steps_are_replayed_bit_for_bit(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    beginning = laboratory.config
    sessions: list[dict[str, Any]] = [
        {},
        {"run.total_training_steps": 8, "run.max_policy_lag": 2},
        {"actor.lr": 1e-4},
        {"run.total_training_steps": 9},
    ]
    for number, values in enumerate(sessions):
        laboratory.config = with_values(laboratory.config, values)
        reopened = streams if number == 0 else streams.reopened()
        await to_the_end(laboratory.learner("run", reopened, transport), reopened, transport)

    assert [(change.after_step, list(change.values)) for change in await changes(streams)] == [
        (6, ["run.total_training_steps", "run.max_policy_lag"]),
        (8, ["actor.lr"]),
        (8, ["run.total_training_steps"]),
    ]
    await assert_replayed(laboratory, beginning, streams)


async def test_steps_that_are_taken_again_under_other_settings_are_compared_with_themselves(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    beginning = laboratory.config
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    checkpoints = CheckpointFolder(laboratory.folder / "run" / "checkpoints")
    (checkpoints.of_step(STEPS) / "progress.json").write_bytes(b"")
    before = {note["step"]: note["actor"] for note in checkpoints.committed()}

    laboratory.config = with_values(beginning, {"actor.lr": 3e-2})
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)

    (change,) = await changes(streams)
    assert change.after_step < STEPS
    after = {note["step"]: note["actor"] for note in checkpoints.committed()}
    assert sorted(after) == [note["step"] for note in checkpoints.committed()]
    assert {step for step, digest in before.items() if after[step] != digest} == {STEPS}
    await assert_replayed(laboratory, beginning, streams)


@pytest.mark.parametrize("values", [{"actor.lr": "much"}, {"actor.lr": -1.0}, {"no.such": 1}, {"run.seed": 5}])
async def test_a_change_that_makes_no_sense_changes_nothing(tmp_path: Path, values: dict[str, Any]) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    beginning = laboratory.config
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    last = CheckpointFolder(laboratory.folder / "run" / "checkpoints").committed()[-1]
    arguments = {"after_step": STEPS, "position": last["inbox_position"], "values": values}
    texts = {name: json.dumps(value) for name, value in arguments.items()}
    await streams.inbox.append([encode_inbox_record(Command("stranger", Action.RECONFIGURE, texts))])

    laboratory.config = with_values(beginning, EXTENDED)
    service = laboratory.learner("run", streams.reopened(), transport)
    await to_the_end(service, streams.reopened(), transport)

    assert steps_of(laboratory) == list(range(1, STEPS + 5))
    await assert_replayed(laboratory, beginning, streams)


async def test_a_resume_with_the_same_settings_adds_no_record(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)

    assert await changes(streams) == []


async def test_a_change_that_is_taken_back_before_the_next_checkpoint_is_taken_back(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "lockstep"), ArchivedStreams(), FakeTransport()
    beginning = laboratory.config
    await killed_behind_a_checkpoint(laboratory, streams, transport)
    laboratory.config = with_values(beginning, {"actor.lr": 3e-2})
    service = laboratory.learner("run", streams.reopened(), transport)
    async with killing(service.run()):
        while not await changes(streams):  # noqa: ASYNC110 - the streams have no event for this
            await asyncio.sleep(0.001)
    laboratory.config = beginning
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)

    assert [change.values["actor.lr"] for change in await changes(streams)] == [3e-2, 1e-2]
    await assert_replayed(laboratory, beginning, streams)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"run.rollouts_per_step": 8}, "run.rollouts_per_step = 8: the run began with 6; expected that, or another"),
        ({"run.seed": 1}, "run.seed = 1: the run began with 0; expected that, or another run.name"),
        ({"run.total_training_steps": 3}, "run.total_training_steps = 3: the newest checkpoint is of step 6; expected"),
    ],
)
async def test_a_resume_as_another_run_is_refused_in_one_sentence(
    tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "lockstep"), ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    laboratory.config = with_values(laboratory.config, values)

    with pytest.raises(ConfigError, match=sentence):
        laboratory.learner("run", streams.reopened(), transport)


async def test_a_replay_finds_the_place_of_a_change_by_its_number_and_leaves_out_what_is_pinned(
    tmp_path: Path,
) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "lockstep"), ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    num_before = await streams.inbox.length()
    laboratory.config = with_values(laboratory.config, EXTENDED)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    entries = await streams.inbox.read(BEGINNING, max_count=10**6, wait_seconds=0)

    (place,) = filter(None, map(change_in, with_places(entries[2:], pinned={"actor.lr"})))

    assert place.position == f"{num_before - 2}-0"
    assert place.values == {key: value for key, value in EXTENDED.items() if key != "actor.lr"}


async def an_extended_run(laboratory: Laboratory, streams: MemoryStreams, transport: FakeTransport) -> InboxArchive:
    """Of ten steps, extended after the sixth; its archive."""
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    laboratory.config = with_values(laboratory.config, EXTENDED)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    archive = InboxArchive(RunPaths(laboratory.folder / "run").inbox)
    archive.append(await streams.inbox.read(BEGINNING, max_count=10**6, wait_seconds=0))
    return archive


def roll_back(laboratory: Laboratory, version: int) -> list[InboxEntry]:
    """As a learner does that is restarted for it; what stays in the archive."""
    folder = laboratory.folder / "run"
    rollback.request(folder, version)
    rollback.apply_requested(folder, begin_incarnation(folder).incarnation)
    rollback.finish(folder)
    return list(InboxArchive(RunPaths(folder).inbox).entries(BEGINNING))


@pytest.mark.parametrize(("version", "num_changes"), [(6, 0), (8, 1)])
async def test_a_rollback_keeps_a_change_that_its_checkpoint_has_applied_and_no_other(
    tmp_path: Path, version: int, num_changes: int
) -> None:
    laboratory = Laboratory(tmp_path, "lockstep")
    archive = await an_extended_run(laboratory, ArchivedStreams(), FakeTransport())
    entries = list(archive.entries(BEGINNING))
    (change,) = [entry for entry in entries if change_in(entry.payload)]
    last = InboxEntry(f"{position_of(entries[-1].position)[0] + 1}-0", change.payload)
    archive.append([last])  # behind the position of every checkpoint, as where the inbox held much at the resume

    kept = await asyncio.to_thread(roll_back, laboratory, version)

    assert [entry.position for entry in kept if change_in(entry.payload)].count(last.position) == num_changes


@pytest.mark.parametrize("version", [6, 8])
async def test_an_extended_run_that_is_rolled_back_and_resumed_is_replayed_bit_for_bit(
    tmp_path: Path, version: int
) -> None:
    laboratory, transport = Laboratory(tmp_path, "lockstep"), FakeTransport()
    beginning = laboratory.config
    await an_extended_run(laboratory, ArchivedStreams(), transport)
    kept = await asyncio.to_thread(roll_back, laboratory, version)
    streams = ArchivedStreams()
    await streams.inbox.append([entry.payload for entry in kept])

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    assert steps_of(laboratory) == list(range(1, STEPS + 5))
    (change,) = await changes(streams)
    assert (change.after_step, change.values) == (STEPS, EXTENDED)
    await assert_replayed(laboratory, beginning, streams)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"after_step": 2, "position": "0-0", "values": ["actor.lr"]},
        {"after_step": 2, "position": "0-0", "values": {"run.seed": 7}},
        {"after_step": 2, "position": "here", "values": {"actor.lr": 1e-3}},
        {"after_step": math.inf, "position": "0-0", "values": {"actor.lr": 1e-3}},
        {"after_step": "2", "position": "0-0", "values": {"actor.lr": 1e-3}},
    ],
)
def test_a_record_of_changed_settings_that_is_not_whole_is_no_change(arguments: dict[str, Any]) -> None:
    assert change_in(a_reconfiguration(arguments)) is None


def a_reconfiguration(arguments: dict[str, Any]) -> bytes:
    texts = {name: json.dumps(value) for name, value in arguments.items()}
    return encode_inbox_record(Command("forged", Action.RECONFIGURE, texts))


async def test_a_change_to_a_value_that_is_refused_changes_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "lockstep"), ArchivedStreams(), FakeTransport()
    change = {"after_step": 0, "position": "0-0", "values": {"actor.lr": -1}}
    await streams.inbox.append([a_reconfiguration(change)])
    service = laboratory.learner("run", streams, transport)

    await to_the_end(service, streams, transport)

    (command,) = service.steering.status()["commands"]
    assert (command["command_id"], command["outcome"], service.step) == ("forged", "refused", STEPS)
    assert "actor.lr" in command["text"]
    await assert_replayed(laboratory, laboratory.config, streams)
