"""One completion: its tokens as they are sampled, slot after slot, and its text up to a stop."""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from services.generation.engine import Engine
from services.generation.fleet.free_slots import FreeSlots
from tppo.process.cancellation import cancel_all
from tppo.rollout import WindowRequest, tokens

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoders make of a character whose bytes are not all there

MAX_OPEN = 16  # tokens that wait for the rest of a character; more are bytes of none


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token, and the weights that were in use when it came."""

    token: int
    logprob: float
    policy_version: int


class Guest:
    """Samples for others in slots that no window needs."""

    def __init__(self, engine: Engine, slots: FreeSlots) -> None:
        self._engine = engine
        self._slots = slots

    async def tokens(self, request: WindowRequest) -> AsyncGenerator[SampledToken, None]:
        """Until a stop token, or the limit. Raises ValueError for what the engine can never serve."""
        queue: asyncio.Queue[SampledToken | None] = asyncio.Queue()  # bounded by the request's limit
        filling = asyncio.create_task(self._fill(request, queue))
        try:
            while (one := await queue.get()) is not None:
                yield one
            await filling
        finally:
            await cancel_all([filling])

    async def _fill(self, request: WindowRequest, queue: "asyncio.Queue[SampledToken | None]") -> None:
        """Turn after turn: a guest that gives its slot up goes on after the tokens that it has."""
        so_far = tokens()
        try:
            while not _has_ended(request, so_far):
                turn = _Turn(self._engine, queue)
                rest = replace(request, response_tokens=so_far, max_new_tokens=request.max_new_tokens - len(so_far))
                window = await self._slots.run(partial(self._engine.generate, rest, turn.take))
                so_far = so_far + turn.ended()
                if window is not None:
                    break
        finally:
            queue.put_nowait(None)


def _has_ended(request: WindowRequest, so_far: "array[int]") -> bool:
    return len(so_far) >= request.max_new_tokens or bool(set(so_far[-1:]) & set(request.stop_token_ids))


class _Turn:
    """The tokens of a guest in one slot; those that come after its end are sampled again in the next."""

    def __init__(self, engine: Engine, queue: "asyncio.Queue[SampledToken | None]") -> None:
        self._engine = engine
        self._queue = queue
        self._tokens = tokens()
        self._is_over = False

    def take(self, new_tokens: Sequence[int], new_logprobs: Sequence[float]) -> None:
        if self._is_over:
            return
        for token, logprob in zip(new_tokens, new_logprobs, strict=True):
            self._tokens.append(token)
            self._queue.put_nowait(SampledToken(token, logprob, self._engine.policy_version))

    def ended(self) -> "array[int]":
        """What it has."""
        self._is_over = True
        return self._tokens


@dataclass(slots=True)
class TextStream:
    """The text of tokens that come one by one: whole characters only, and nothing that may begin a stop."""

    decode: Callable[[list[int]], str]
    stops: Sequence[str] = ()
    has_stopped: bool = False
    _tokens: list[int] = field(default_factory=list)
    _begin: int = 0  # of the tokens that are decoded again, as context of those that follow
    _read: int = 0  # tokens whose text is known
    _held: str = ""  # may begin a stop

    def feed(self, token: int) -> str:
        """What is certain now."""
        self._tokens.append(token)
        known = self.decode(self._tokens[self._begin : self._read])
        text = self.decode(self._tokens[self._begin :])
        is_open = len(text) <= len(known) or text.endswith(UNFINISHED)
        if is_open and len(self._tokens) - self._read < MAX_OPEN:
            return ""
        self._begin, self._read = self._read, len(self._tokens)
        return self._up_to_a_stop(text[len(known) :])

    def rest(self) -> str:
        """What is left when the tokens have ended."""
        if self.has_stopped:
            return ""
        known = self.decode(self._tokens[self._begin : self._read])
        last = self._up_to_a_stop(self.decode(self._tokens[self._begin :])[len(known) :])
        return last if self.has_stopped else last + self._held

    def _up_to_a_stop(self, new: str) -> str:
        text = self._held + new
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.has_stopped, self._held = True, ""
            return text[: min(found)]
        num_held = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that begins the stop."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
