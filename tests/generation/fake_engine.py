"""An `Engine` under a test's control."""

import asyncio
from collections.abc import Sequence

from services.generation.engine import CrossedRow, EngineStatistics, OnTokens, ProbeAnswer, RunningWindow
from tppo.process.cancellation import cancel_all
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens
from tppo.weight_probe import ProbeRow, WeightProbe
from tppo.weights import WeightUpdate

PROBE = WeightProbe((ProbeRow((1, 2), (3, 4)), ProbeRow((5,), (6,))), (logprobs([-1, -1]), logprobs([-1])), 1.0)
"""Of two rows; what the engine says of them, as long as nobody changes `probed`."""


def an_update_of(policy_version: int, *, incarnation: int = 0) -> WeightUpdate:
    """Without a tensor."""
    return WeightUpdate(policy_version, incarnation, f"digest of {policy_version}", {})


class FakeEngine:
    """Each window waits for `release`, unless `is_instant`, or for its cut; requests named "bad" are refused."""

    def __init__(self, *, policy_version: int = 0, num_slots: int = 2, is_instant: bool = True) -> None:
        self.policy_version = policy_version
        self.num_slots = num_slots
        self.asked: asyncio.Queue[WindowRequest] = asyncio.Queue()
        self.released = asyncio.Event()
        self.updates: list[WeightUpdate] = []
        self.cuts: dict[tuple[str, int], asyncio.Event] = {}  # of the windows under way
        self.num_tokens_when_cut = 2
        self.running: tuple[RunningWindow, ...] = ()
        self.probed = -1.0  # its log-probability of each token of a probe
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.failure: Exception | None = None  # raised by the next window, or the next update
        self.is_asleep = self.keeps_weights = False
        if is_instant:
            self.released.set()

    async def generate(self, request: WindowRequest, on_tokens: OnTokens | None = None) -> Window:
        self.asked.put_nowait(request)
        self.cuts[request.key] = is_cut = asyncio.Event()
        waits = [asyncio.ensure_future(event.wait()) for event in (self.released, is_cut)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(waits)
        if self.failure is not None:
            raise self.failure
        if request.rollout_id == "bad":
            raise ValueError("too long")
        num_tokens = self.num_tokens_when_cut if is_cut.is_set() else 2
        if on_tokens is not None:
            on_tokens((7, 8)[:num_tokens], (-0.5, -0.25)[:num_tokens])
        return Window(
            rollout_id=request.rollout_id,
            window_index=request.window_index,
            tokens=tokens([7, 8][:num_tokens]),
            logprobs=logprobs([-0.5, -0.25][:num_tokens]),
            version_spans=(VersionSpan(self.policy_version, num_tokens),),
            finish_reason=FinishReason.CUT if is_cut.is_set() else FinishReason.LENGTH,
            is_evaluation=request.is_evaluation,
        )

    async def cut(self, rollout_id: str, window_index: int) -> None:
        if (rollout_id, window_index) in self.cuts:
            self.cuts[rollout_id, window_index].set()

    async def probe(self, rows: Sequence[ProbeRow], *, temperature: float = 1.0) -> ProbeAnswer:
        await self.may_answer.wait()
        return ProbeAnswer(
            self.policy_version, tuple(logprobs([self.probed] * len(row.response_tokens)) for row in rows)
        )

    async def probe_across_update(
        self, rows: Sequence[ProbeRow], crossing: int, *, temperature: float = 1.0
    ) -> CrossedRow:
        found = logprobs([self.probed] * len(rows[crossing].response_tokens))
        return CrossedRow(rows[crossing], found, 1, self.policy_version, found)

    async def update_weights(self, update: WeightUpdate) -> str:
        if self.failure is not None:
            raise self.failure
        self.updates.append(update)
        self.is_asleep = False
        self.policy_version = update.policy_version
        return update.digest

    async def sleep(self, *, keeps_weights: bool) -> None:
        self.is_asleep, self.keeps_weights = True, keeps_weights

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            num_slots=self.num_slots,
            num_active=1,
            num_waiting=0,
            num_tokens_generated=30,
            num_decode_steps=20,
            num_active_slot_steps=30,
            num_prefill_tokens=5,
            busy_seconds=0.5,
            kv_cache_use=0.25,
            running=self.running,
        )

    async def close(self) -> None: ...
