"""Rows of a probe in vLLM, which has forced decoding on GPUs alone.

A forced token is the first one of a request of its own, whose prompt is what stands in front of it. A row that an
update is to meet in mid-way is one request that samples freely; what it reports of its tokens is compared with what
forced ones of the same row say after the update. All of them share vLLM's batch, cache and sampler with the windows.
"""

import asyncio
import itertools
import logging
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from services.generation.engine import CrossedRow, ProbeAnswer
from services.generation.requests import check_request, forced_request
from services.generation.vllm_engine.window_row import WeightLabel, WindowRow
from tppo.rollout import WindowRequest, logprobs
from tppo.weight_probe import NUM_DECODED, ProbeRow

log = logging.getLogger(__name__)

LONGEST_CROSSING = 512  # tokens of a row until it has those that it needs after an update
BEGIN_SECONDS = 10.0  # for its first token, while the update waits


@dataclass(eq=False, slots=True)
class _Crossing:
    """A row until the update that it is to cross: WAITING -> due -> begun, once it has a token."""

    is_due: asyncio.Event = field(default_factory=asyncio.Event)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)


class Probing:
    """Asks vLLM for the rows' log-probabilities."""

    def __init__(self, core: AsyncLLM, label: Callable[[], WeightLabel], *, capacity: int) -> None:
        """`label`: of the weights in use; `capacity` bounds the tokens of a row."""
        self._core = core
        self._label = label
        self._capacity = capacity
        self._vocabulary_size: int = core.model_config.get_vocab_size()
        self._numbers = itertools.count()
        self._crossings: set[_Crossing] = set()

    async def answer(self, rows: Sequence[ProbeRow], temperature: float) -> ProbeAnswer:
        """Raises ValueError for rows that do not fit."""
        for row in rows:
            self._check(row, temperature)
        salt = self._label().salt()
        found = await asyncio.gather(*(self._forced(row, temperature, salt) for row in rows))
        version = max((of_token for _, versions in found for of_token in versions), default=-1)
        return ProbeAnswer(
            version,
            tuple(values for values, _ in found),
            tuple(sum(of_token != version for of_token in versions) for _, versions in found),
        )

    async def answer_across_update(self, row: ProbeRow, temperature: float) -> CrossedRow:
        """Raises ValueError for a row that does not fit."""
        crossing = _Crossing()
        request = replace(self._check(row, temperature), max_new_tokens=self._longest(row))
        self._crossings.add(crossing)
        try:
            await crossing.is_due.wait()
            sampled = await self._sampled(request, crossing)
        finally:
            self._crossings.discard(crossing)
            crossing.has_begun.set()
        version, num_earlier = sampled.spans[-1].policy_version, len(sampled.tokens) - sampled.spans[-1].num_tokens
        end = num_earlier + NUM_DECODED
        rest = ProbeRow((*row.prompt_tokens, *sampled.tokens[:num_earlier]), tuple(sampled.tokens[num_earlier:end]))
        afterwards, _ = await self._forced(rest, temperature, f"{self._label().salt()}/afterwards")
        earlier = sampled.logprobs[:num_earlier]
        whole = ProbeRow(row.prompt_tokens, tuple(sampled.tokens[:end]))
        return CrossedRow(whole, sampled.logprobs[:end], num_earlier, version, earlier + afterwards)

    async def begin_crossings(self) -> None:
        """Before an update: the rows that it is to meet in mid-way have a token when this ends."""
        for crossing in list(self._crossings):
            crossing.is_due.set()
            try:
                async with asyncio.timeout(BEGIN_SECONDS):
                    await crossing.has_begun.wait()
            except TimeoutError:
                log.warning("a row of the probe has no token after %g s; the update goes on", BEGIN_SECONDS)

    def _check(self, row: ProbeRow, temperature: float) -> WindowRequest:
        if not row.response_tokens:
            raise ValueError("a row of the probe has no response tokens; expected at least one")
        request = forced_request(row, temperature or 1.0)
        check_request(
            request, capacity=self._capacity, vocabulary_size=self._vocabulary_size, forced=row.response_tokens
        )
        return request

    def _longest(self, row: ProbeRow) -> int:
        return min(LONGEST_CROSSING, self._capacity - len(row.prompt_tokens))

    async def _sampled(self, request: WindowRequest, crossing: _Crossing) -> WindowRow:
        """A row that samples until it has enough tokens of newer weights than those that it began with."""
        row, before, num_before = WindowRow(request), self._label(), 0
        request_id = self._request_id()
        parameters = SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        async for output in self._core.generate(_prompt(row.before(), before.salt()), parameters, request_id):
            row.take(output)
            crossing.has_begun.set()
            if self._label() == before:
                num_before = len(row.tokens)
            elif len(row.tokens) >= num_before + NUM_DECODED and row.finish_reason is None:
                await self._core.abort(request_id)
        return row

    async def _forced(self, row: ProbeRow, temperature: float, salt: str) -> "tuple[array[float], list[int]]":
        """Of each forced token its log-probability, and the version that said it."""
        values, versions = logprobs(), []
        for place, token in enumerate(row.response_tokens, start=row.start):
            parameters = SamplingParams(
                max_tokens=1,
                temperature=temperature or 1.0,
                ignore_eos=True,
                logprobs=1,
                logprob_token_ids=[token],
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = _prompt(row.tokens[:place], salt)
            async for output in self._core.generate(prompt, parameters, self._request_id()):
                (part,) = output.outputs
                values.append(float(part.logprobs[0][token].logprob))
                versions.append(WeightLabel.of(part.weight_versions[-1].version).policy_version)
        return values, versions

    def _request_id(self) -> str:
        return f"probe/{next(self._numbers)}"


def _prompt(tokens: Sequence[int], salt: str) -> dict[str, Any]:
    return {"prompt_token_ids": list(tokens), "cache_salt": salt}
