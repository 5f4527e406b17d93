"""Records that no learner can use neither stop one nor change what it trains."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from learner.commands.replay.records import with_scores
from learner.rollouts.rollout import Position
from learner.service import LearnerService
from tests.learner.builders import a_score, a_window
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import (
    STEPS,
    ArchivedStreams,
    Laboratory,
    killed_at,
    replay,
    step_reached,
    to_the_end,
)
from tppo import codec
from tppo.rollout import VersionSpan, Window, logprobs, tokens
from tppo.streams import Lease, MemoryStreams

WINDOW = a_window("9-0-0")
POISON = [
    b"\xff\x00\x9a\x12\x03\xfe\x77\x81\x04\xd5",
    *(
        codec.encode_inbox_record(record)
        for record in (
            replace(WINDOW, tokens=tokens([10, 10**6, 11, 12])),
            replace(WINDOW, version_spans=(VersionSpan(2**31, 4),)),
            replace(WINDOW, logprobs=logprobs([-1, math.nan, -1, -1])),
            replace(WINDOW, logprobs=logprobs([-1, 0.5, -1, -1])),
            a_window("0-999-0"),
            a_window("eval-x-0"),
            a_score("9-0-0", math.nan),
        )
    ),
]


async def poison_at(steps: tuple[int, ...], streams: MemoryStreams, service: LearnerService) -> None:
    for step in steps:
        await step_reached(service, step)
        await streams.inbox.append(POISON)


class PoisonedStreams(ArchivedStreams):
    """Streams whose generator spoils its first answers to two requests; it keeps what it was sent and has answered."""

    num_spoiled: ClassVar = {("0-5-0", 0): 4, ("0-7-0", 0): 2}  # of the first two rollouts in the seeded order

    def __init__(self) -> None:
        super().__init__()
        self.num_answers: Counter[tuple[str, int]] = Counter()
        self._complete_soundly = self.window_requests.complete
        self.window_requests.complete = self._complete  # type: ignore[method-assign]

    async def _complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        return await self._complete_soundly(worker, [(lease, self._spoilt(result)) for lease, result in results])

    def _spoilt(self, result: bytes) -> bytes:
        window = codec.decode_inbox_record(result)
        assert isinstance(window, Window)
        self.num_answers[window.key] += 1
        if self.num_answers[window.key] > self.num_spoiled.get(window.key, 0):
            return result
        return codec.encode_inbox_record(replace(window, tokens=tokens([-1] * len(window.tokens))))


def parked_in(service: LearnerService) -> list[tuple[str, Position, str]]:
    return [(row.rollout_id, row.ready_position, row.cause) for row in service._manager.ledger.parked()]


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
async def test_a_killed_run_with_poison_in_its_log_is_replayed_bit_for_bit(tmp_path: Path, mode: str) -> None:
    laboratory = Laboratory(tmp_path, mode)
    streams, transport = PoisonedStreams(), FakeTransport()
    await streams.inbox.append(POISON)

    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    restarted = laboratory.learner("run", streams.reopened(), transport)
    await asyncio.gather(to_the_end(restarted, streams.reopened(), transport), poison_at((3, 4), streams, restarted))
    replayed = await replay(laboratory, "replay", streams)

    assert (restarted.step, replayed.step) == (STEPS, STEPS)
    weights, again = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert {key: streams.num_answers[key] for key in streams.num_spoiled} == {("0-5-0", 0): 4, ("0-7-0", 0): 3}
    ((parked, _, cause),) = parked_in(restarted)
    assert parked_in(replayed) == parked_in(restarted)
    assert (parked, cause) == (
        "0-5-0",
        "4 answers were rejected, the last one: window 0 of 0-5-0: token -1; expected one of 0 to 23",
    )
    assert restarted._manager.ledger.num_rejected_records == 3 * len(POISON) + 4 + 2
    assert restarted._manager.ledger.conservation().holds
    letters = await streams.dead_letters.newest(99)
    assert len(letters) == len({letter.place for letter in letters}) == 3 * len(POISON) + 4 + 2
    assert (letters[-1].source, letters[-1].place, letters[-1].payload) == ("inbox", "1-0", POISON[0])


def test_a_rescored_replay_passes_poison_on() -> None:
    assert list(with_scores(POISON[:3], {})) == POISON[:3]
