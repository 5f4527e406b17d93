"""With one role's key nobody steers a run, scores a response or writes as another role: in a run, and in its replay."""

import asyncio
from pathlib import Path

import torch

from learner.service import LearnerService
from tests.learner.builders import a_score, a_window
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import (
    STEPS,
    Laboratory,
    SealedStreams,
    killed_at,
    replay,
    step_reached,
    to_the_end,
)
from tppo import codec
from tppo.rollout import Action, Command, InboxRecord
from tppo.security.envelope import FORMAT, Sealer, Writer
from tppo.security.record_keys import sealed_records

RECORDS = sealed_records(["a-secret-of-the-run"])
CHANGE = {"after_step": "1", "position": '"0-0"', "values": '{"actor.lr": 1.0}'}


def sealed_by(role: Writer, record: InboxRecord) -> bytes:
    return RECORDS.sealer(role).seal(codec.encode_inbox_record(record))


def of_another_format(payload: bytes) -> bytes:
    return payload[:1] + bytes([FORMAT + 1]) + payload[2:]


SCORE, WINDOW = a_score("0-5-0"), a_window("0-5-0")
FORGED = [
    sealed_by(Writer.GENERATION, Command("stop", Action.STOP_AFTER_STEP)),
    sealed_by(Writer.GENERATION, Command("faster", Action.SET, {"key": '"actor.lr"', "value": "1.0"})),
    sealed_by(Writer.GENERATION, SCORE),
    sealed_by(Writer.REWARD, WINDOW),
    sealed_by(Writer.REWARD, Command("pause", Action.PAUSE)),
    sealed_by(Writer.OPERATOR, SCORE),
    sealed_by(Writer.OPERATOR, Command("resume-1", Action.RECONFIGURE, CHANGE)),
    sealed_by(Writer.LEARNER, Command("pause", Action.PAUSE)),
    Sealer(Writer.OPERATOR, "a key of nobody").seal(codec.encode_inbox_record(Command("stop", Action.STOP_AFTER_STEP))),
    codec.encode_inbox_record(Command("stop", Action.STOP_AFTER_STEP)),
    codec.encode_inbox_record(SCORE),
    of_another_format(sealed_by(Writer.REWARD, SCORE)),
    sealed_by(Writer.REWARD, SCORE)[:-1],
]


async def forged_at(steps: tuple[int, ...], streams: SealedStreams, service: LearnerService) -> None:
    for step in steps:
        await step_reached(service, step)
        streams.forge(FORGED)


async def test_what_a_role_may_not_write_neither_trains_nor_steers_a_run_that_is_killed_and_replayed(
    tmp_path: Path,
) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", records=RECORDS)
    untouched, transport = SealedStreams(RECORDS), FakeTransport()
    await to_the_end(laboratory.learner("untouched", untouched, transport), untouched, transport)

    streams, transport = SealedStreams(RECORDS), FakeTransport()
    streams.forge(FORGED)
    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    restarted = laboratory.learner("run", streams.reopened(), transport)
    await asyncio.gather(to_the_end(restarted, streams.reopened(), transport), forged_at((3, 4), streams, restarted))
    replayed = await replay(laboratory, "replay", streams)

    assert (restarted.step, replayed.step) == (STEPS, STEPS)
    weights = {run: laboratory.final_weights(run) for run in ("untouched", "run", "replay")}
    for run in ("run", "replay"):
        assert all(torch.equal(weights["untouched"][name], weights[run][name]) for name in weights[run])
    assert restarted._manager.ledger.num_rejected_records == 3 * len(FORGED)
    assert restarted._manager.commands.results == {}
    letters = await streams.dead_letters.newest(99)
    assert len(letters) == 3 * len(FORGED)
    assert [letter.cause for letter in reversed(letters)][:3] == [
        "a command STOP_AFTER_STEP that generation has sealed; expected operator",
        "a command SET that generation has sealed; expected operator",
        "a score that generation has sealed; expected reward",
    ]
