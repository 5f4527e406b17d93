"""Says what the run waits for when no training step has been done for a while, in the log and in the status.

Loop `serve`: consumes the ledger's counts and the heartbeats of the others / waits `deadline_seconds` without a step /
unblocked by the clock / produces a line of the log, and `text` for the status.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from learner.exchange.weight_publisher import GeneratorState
from learner.rollouts.rollout import State
from tppo.process.presence import GONE_AFTER_SECONDS, Presence
from tppo.streams import StreamsError

logger = logging.getLogger(__name__)

KINDS = {State.REQUESTED: ("windows", "generation"), State.SCORING: ("scores", "reward")}
AllProcesses = Callable[[], Awaitable[Sequence[Presence]]]  # those without a recent heartbeat as well


def explanation(
    counts: Mapping[str, int], processes: Sequence[Presence], generators: Mapping[str, GeneratorState]
) -> str:
    """What is waited for, and what is wrong with the processes that should send it."""
    now = max((one.seen_at for one in processes), default=0.0)  # by the server's clock, 1 s old at most
    clauses = []
    for state, (what, kind) in KINDS.items():
        if counts.get(state):
            clauses.append(f"waiting for {counts[state]} {what}")
            clauses += _troubles(kind, [one for one in processes if one.kind == kind], now)
    clauses += [f"weights do not reach {name}: {one.error}" for name, one in generators.items() if one.error]
    return "; ".join(clauses) or "every window has arrived"


def _troubles(kind: str, services: Sequence[Presence], now: float) -> Iterator[str]:
    if not services:
        yield f"no {kind} service is registered"
    for one in services:
        silent_seconds = now - one.seen_at
        if silent_seconds > GONE_AFTER_SECONDS:
            yield f"no heartbeat from {kind} service {one.name} for {silent_seconds:.0f} s"
        elif error := one.status.get("last_error"):
            yield f"{one.name} reports: {error}"


class Watchdog:
    """Of one learner."""

    def __init__(
        self,
        deadline_seconds: float,
        counts: Callable[[], Mapping[str, int]],
        generators: Mapping[str, GeneratorState],
        all_processes: AllProcesses,
        *,
        is_paused: Callable[[], bool] = lambda: False,
    ) -> None:
        """`counts`: training rollouts by state; `generators`: as the weight publisher sees them."""
        self._deadline_seconds = deadline_seconds
        self._counts = counts
        self._generators = generators
        self._all_processes = all_processes
        self._is_paused = is_paused
        self._has_stepped = asyncio.Event()
        self.text = ""  # empty while steps are done

    def note_step(self) -> None:
        """A training step is done."""
        self.text = ""
        self._has_stepped.set()

    async def serve(self) -> None:
        """Watch until cancelled."""
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    await self._has_stepped.wait()
                self._has_stepped.clear()
                began = time.monotonic()
            except TimeoutError:
                if self._is_paused():
                    self.text, began = "", time.monotonic()
                    continue
                self.text = await self._explanation()
                logger.warning("no training step for %.0f s: %s", time.monotonic() - began, self.text)

    async def _explanation(self) -> str:
        try:
            return explanation(self._counts(), await self._all_processes(), self._generators)
        except StreamsError as error:
            return f"Redis does not answer: {error}"
