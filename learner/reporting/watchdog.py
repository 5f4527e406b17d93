"""Says what everything waits for when no step has happened for a while, in the log and in the status.

Loop `serve`: consumes the ledger's counts and the presence of the others / waits `patience_seconds` without a step /
unblocked by the clock / produces a line of the log, and `text` for the status.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from learner.exchange.weight_publisher import GeneratorState
from learner.rollouts.rollout import State
from tppo.presence import GONE_AFTER_SECONDS, Presence
from tppo.streams import StreamsError

logger = logging.getLogger(__name__)

KINDS = {State.REQUESTED: ("windows", "generation"), State.SCORING: ("scores", "reward")}
Everyone = Callable[[], Awaitable[Sequence[Presence]]]  # those who fell silent as well


async def nobody() -> Sequence[Presence]:
    """The presence of others, where there are none."""
    return []


def explanation(
    counts: Mapping[str, int], everyone: Sequence[Presence], generators: Mapping[str, GeneratorState]
) -> str:
    """What is waited for, and what is wrong with those who should bring it."""
    now = max((one.seen_at for one in everyone), default=0.0)  # of the server: the learner's own is at most 1 s old
    clauses = []
    for state, (what, kind) in KINDS.items():
        if counts.get(state):
            clauses.append(f"waiting for {counts[state]} {what}")
            clauses += _troubles(kind, [one for one in everyone if one.kind == kind], now)
    clauses += [f"weights do not reach {name}: {one.error}" for name, one in generators.items() if one.error]
    return "; ".join(clauses) or "waiting for nobody: every row is here"


def _troubles(kind: str, services: Sequence[Presence], now: float) -> Iterator[str]:
    if not services:
        yield f"no {kind} service has shown itself"
    for one in services:
        silent_seconds = now - one.seen_at
        if silent_seconds > GONE_AFTER_SECONDS:
            since = time.strftime("%H:%M:%S", time.localtime(one.seen_at))
            yield f"{kind} service {one.name} unreachable since {since}"
        elif error := one.status.get("last_error"):
            yield f"{one.name} reports: {error}"


class Watchdog:
    """Of one learner."""

    def __init__(
        self,
        patience_seconds: float,
        counts: Callable[[], Mapping[str, int]],
        generators: Mapping[str, GeneratorState],
        everyone: Everyone,
        *,
        is_paused: Callable[[], bool] = lambda: False,
    ) -> None:
        """`counts`: training rollouts by state; `generators`: as the weight publisher sees them."""
        self._patience_seconds = patience_seconds
        self._counts = counts
        self._generators = generators
        self._everyone = everyone
        self._is_paused = is_paused
        self._has_stepped = asyncio.Event()
        self.text = ""  # empty while steps happen

    def note_step(self) -> None:
        """A step has happened."""
        self.text = ""
        self._has_stepped.set()

    async def serve(self) -> None:
        """Watch until cancelled."""
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._patience_seconds):
                    await self._has_stepped.wait()
                self._has_stepped.clear()
                began = time.monotonic()
            except TimeoutError:
                if self._is_paused():
                    self.text, began = "", time.monotonic()
                    continue
                self.text = await self._explanation()
                logger.warning("no step for %.0f s: %s", time.monotonic() - began, self.text)

    async def _explanation(self) -> str:
        try:
            return explanation(self._counts(), await self._everyone(), self._generators)
        except StreamsError as error:
            return f"Redis does not answer: {error}"
