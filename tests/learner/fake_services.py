"""Generators and reward workers that answer at once, with answers that follow from the request alone."""

import asyncio
import random
from array import array
from collections.abc import Mapping

from learner.exchange.weight_publisher import FoundGenerator, Snapshot
from tppo import codec
from tppo.rollout import FinishReason, Score, ScoreStatus, VersionSpan, Window, WindowRequest, logprobs, tokens
from tppo.streams import MemoryStreams

GENERATOR = "generation-0"
STOP_TOKEN = 1
VOCABULARY = range(2, 20)
LEASE_COUNT = 4


class FakeTransport:
    """Remembers the snapshots that a generator was sent."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    @property
    def policy_version(self) -> int:
        return self.snapshots[-1].policy_version if self.snapshots else -1

    async def send(self, address: str, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    async def forget(self, address: str) -> None: ...


async def one_generator() -> Mapping[str, FoundGenerator]:
    return {GENERATOR: FoundGenerator("127.0.0.1:1", started_at=1.0)}


def window_for(request: WindowRequest, policy_version: int) -> Window:
    """A window whose length and tokens are drawn from the request's seed."""
    source = random.Random(f"{request.seed}/{request.window_index}")
    length = min(request.max_new_tokens, source.randint(1, 14))
    sampled = tokens(source.choice(VOCABULARY) for _ in range(length))
    stops = length < request.max_new_tokens
    if stops:
        sampled[-1] = STOP_TOKEN
    return Window(
        rollout_id=request.rollout_id,
        window_index=request.window_index,
        tokens=sampled,
        logprobs=logprobs([-2.5] * length),
        version_spans=(VersionSpan(policy_version, length),),
        finish_reason=FinishReason.STOP if stops else FinishReason.LENGTH,
        generator=GENERATOR,
        is_evaluation=request.is_evaluation,
    )


async def generate(
    streams: MemoryStreams, transport: FakeTransport, *, chance: random.Random | None = None, lease_count: int = 4
) -> None:
    """Serve window requests until cancelled; those that are leased together in an order drawn from `chance`."""
    queue = streams.window_requests
    while True:
        leases = await queue.lease("generation-0", max_count=lease_count, wait_seconds=0.05)
        if chance is not None:
            chance.shuffle(leases)
        for lease in leases:
            request = codec.decode_window_request(lease.payload)
            while transport.policy_version < request.min_policy_version:  # noqa: ASYNC110 - a fake may poll
                await asyncio.sleep(0.001)
            window = window_for(request, transport.policy_version)
            await queue.complete("generation-0", [(lease, codec.encode_inbox_record(window))])


async def reward(streams: MemoryStreams) -> None:
    """Score 1 for an even number of tokens, 0 for an odd one, until cancelled."""
    queue = streams.reward_requests
    while True:
        for lease in await queue.lease("reward-0", max_count=LEASE_COUNT, wait_seconds=0.05):
            request = codec.decode_reward_request(lease.payload)
            score = Score(
                rollout_id=request.rollout_id,
                attempt=request.attempt,
                status=ScoreStatus.SCORED,
                score=float(request.num_response_tokens % 2 == 0),
                is_evaluation=request.is_evaluation,
            )
            await queue.complete("reward-0", [(lease, codec.encode_inbox_record(score))])


def text_of(token_ids: "array[int]") -> str:
    return " ".join(map(str, token_ids))
