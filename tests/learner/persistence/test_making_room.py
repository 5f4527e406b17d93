"""What a resumed learner deletes from Redis before anything else: in a full server nobody else makes room."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from learner.build import make_room
from learner.state import LearnerState
from learner.step.progress import TrainingProgress
from tppo.streams import MemoryStreams
from tppo.streams.contract import BEGINNING


def at(position: str) -> LearnerState:
    progress = TrainingProgress(step=2, inbox_position=position, elapsed_seconds=0.0, tokens_trained=0)
    return cast(LearnerState, cast(Any, SimpleNamespace(progress=progress)))


async def test_a_resumed_learner_trims_what_its_checkpoint_covers(tmp_path: Path) -> None:
    streams = MemoryStreams(lease_seconds=60)
    await streams.inbox.append([b"a", b"b", b"c"])

    await make_room(at("2-0"), tmp_path, streams)

    entries = await streams.inbox.read(BEGINNING, max_count=9, wait_seconds=0)
    assert [entry.payload for entry in entries] == [b"c"]


async def test_a_learner_that_starts_from_scratch_trims_nothing(tmp_path: Path) -> None:
    streams = MemoryStreams(lease_seconds=60)
    await streams.inbox.append([b"a"])

    await make_room(at(BEGINNING), tmp_path, streams)

    assert await streams.inbox.length() == 1
