"""The transformers engine as the request handler sees it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from services.generation.engine import CrossedRow, EngineStatistics, OnTokens, ProbeAnswer
from services.generation.requests import check_request, empty_window, forced_request
from services.generation.transformers_engine.decode_loop import DecodeLoop
from services.generation.transformers_engine.decode_row import DecodeRow
from services.generation.transformers_engine.decoders.decoder import Decoder, Switch
from services.generation.transformers_engine.pending import PendingUpdate
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.adapter_body import AdapterBody
from tppo.rollout import Window, WindowRequest
from tppo.weight_probe import ProbeRow
from tppo.weights import WeightUpdate


class TransformersEngine:
    """An `Engine`: hands windows and weights to the decode loop and awaits what becomes of them."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        num_slots: int,
        capacity: int,
        policy: UpdatePolicy,
        device: torch.device,
        body: AdapterBody | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        """`capacity` bounds the tokens of a row, prompt and response together; `body` is that of adapters."""
        self._body = body
        self._capacity = capacity
        self._decoder = decoder
        self._rows: dict[tuple[str, int], DecodeRow] = {}  # of the windows under way
        self._loop = DecodeLoop(
            decoder, num_slots=num_slots, policy=policy, device=device, gather_seconds=gather_seconds
        )

    @property
    def num_slots(self) -> int:
        """Windows that run at once."""
        return self._loop.num_slots

    @property
    def policy_version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        return self._loop.policy_version

    async def generate(self, request: WindowRequest, on_tokens: OnTokens | None = None) -> Window:
        """The window, when it has ended; waits for a slot, and for the first weights."""
        check_request(request, capacity=self._capacity, vocabulary_size=self._decoder.vocabulary_size)
        if request.max_new_tokens == 0:
            return empty_window(request)
        row = DecodeRow(request, None if on_tokens is None else _on_event_loop(on_tokens))
        self._loop.submit(row)
        self._rows[request.key] = row
        try:
            return await asyncio.wrap_future(row.future)
        except asyncio.CancelledError:
            self._loop.cancel(row)
            raise
        finally:
            if self._rows.get(request.key) is row:
                del self._rows[request.key]

    async def cut(self, rollout_id: str, window_index: int) -> None:
        """Let the window end before its next token, or while it waits for a slot."""
        if (row := self._rows.get((rollout_id, window_index))) is not None:
            self._loop.cut(row)

    async def probe(self, rows: Sequence[ProbeRow], *, temperature: float = 1.0) -> ProbeAnswer:
        """Decode the rows beside the windows that run, as rows of the same batch."""
        forced = [self._forced(row, temperature) for row in rows]
        self._loop.probe(forced)
        return _answer(await self._ended(forced))

    async def probe_across_update(
        self, rows: Sequence[ProbeRow], crossing: int, *, temperature: float = 1.0
    ) -> CrossedRow:
        """The first token of its row is of the weights in use, and the second of the new ones, as are all others."""
        first, *following = [self._forced(row, temperature) for row in (rows[crossing], *rows)]
        self._loop.probe_across_update(first, following)
        crossed, *others = await self._ended([first, *following])
        version, answer = _newest(crossed), _answer(others)
        num_earlier, afterwards = _num_earlier(crossed, version), answer.logprobs[crossing]
        return CrossedRow(rows[crossing], crossed.logprobs, num_earlier, version, afterwards, answer)

    def _forced(self, row: ProbeRow, temperature: float) -> DecodeRow:
        forced = DecodeRow(forced_request(row, temperature), forced=row.response_tokens)
        if not forced.forced:
            raise ValueError("a row of the probe has no response tokens; expected at least one")
        check_request(
            forced.request,
            capacity=self._capacity,
            vocabulary_size=self._decoder.vocabulary_size,
            forced=forced.forced,
        )
        return forced

    async def _ended(self, rows: Sequence[DecodeRow]) -> list[Window]:
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(row.future) for row in rows)))
        except asyncio.CancelledError:
            for row in rows:
                self._loop.cancel(row)
            raise

    async def update_weights(self, update: WeightUpdate) -> str:
        """Digest of what is loaded, when it is in use: that of the tensors, computed when the last of them had come."""
        switch = await asyncio.to_thread(self._prepared, update)
        pending = PendingUpdate(switch, update.policy_version)
        del switch  # it holds a copy of the weights
        self._loop.update(pending)
        try:
            await asyncio.wrap_future(pending.future)
        except asyncio.CancelledError:
            self._loop.give_up(pending)
            raise
        return update.digest

    def _prepared(self, update: WeightUpdate) -> Switch:
        tensors = update.tensors if self._body is None else self._body.whole(update)
        return self._decoder.prepare(tensors, update.free)

    @property
    def is_asleep(self) -> bool:
        """Whether its memory is free, until the next weights are in use."""
        return self._loop.is_asleep

    async def sleep(self, *, keeps_weights: bool) -> None:
        """Between two tokens, or when the running windows have ended."""
        await asyncio.wrap_future(self._loop.sleep(keeps_weights=keeps_weights))

    def statistics(self) -> EngineStatistics:
        """What it has done and does."""
        room = self.num_slots * self._capacity
        return replace(self._loop.statistics(), kv_cache_use=self._loop.num_cached_tokens / room)

    async def close(self) -> None:
        """Stop; windows that still run are cancelled, and a pass of the model is awaited for a moment only."""
        await asyncio.to_thread(self._loop.close)


def _answer(windows: Sequence[Window]) -> ProbeAnswer:
    version = max(map(_newest, windows), default=-1)
    return ProbeAnswer(
        version,
        tuple(window.logprobs for window in windows),
        tuple(_num_earlier(window, version) for window in windows),
    )


def _newest(window: Window) -> int:
    return max((span.policy_version for span in window.version_spans), default=-1)


def _num_earlier(window: Window, version: int) -> int:
    return sum(found != version for found in window.token_versions())


def _on_event_loop(on_tokens: OnTokens) -> Callable[[int, float], None]:
    """For the decode loop's thread to call: hands each token over, before the window that it is in."""
    loop = asyncio.get_running_loop()

    def hand_over(token: int, logprob: float) -> None:
        with suppress(RuntimeError):  # the event loop has closed, so nobody takes it
            loop.call_soon_threadsafe(on_tokens, (token,), (logprob,))

    return hand_over
