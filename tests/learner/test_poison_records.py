"""Records that no learner can use neither stop one nor change what it trains."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.learner.builders import a_score, a_window
from tests.learner.fake_services import FakeTransport
from tests.learner.test_learner_service import (
    STEPS,
    ArchivedStreams,
    Laboratory,
    killed_at,
    replay,
    step_reached,
    to_the_end,
)
from tppo import codec
from tppo.rollout import VersionSpan, logprobs, tokens
from tppo.streams import MemoryStreams

WINDOW = a_window("0-0-0")
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
            a_score("0-0-0", math.nan),
        )
    ),
]


async def poison_at(steps: tuple[int, ...], streams: MemoryStreams, service: object) -> None:
    for step in steps:
        await step_reached(service, step)  # type: ignore[arg-type]
        await streams.inbox.append(POISON)


@pytest.mark.parametrize("mode", ["overlapped", "streaming"])
async def test_a_killed_run_with_poison_in_its_log_is_replayed_bit_for_bit(tmp_path: Path, mode: str) -> None:
    laboratory = Laboratory(tmp_path, mode)
    streams, transport = ArchivedStreams(), FakeTransport()
    await streams.inbox.append(POISON)

    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    restarted = laboratory.learner("run", streams.reopened(), transport)
    await asyncio.gather(to_the_end(restarted, streams.reopened(), transport), poison_at((3, 4), streams, restarted))
    await replay(laboratory, "replay", streams)

    assert restarted.step == STEPS
    weights, replayed = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)
    assert restarted._manager.ledger.num_rejected_records == 3 * len(POISON)
    assert restarted._manager.ledger.conservation().holds
