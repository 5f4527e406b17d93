"""What all generators of a run have done together, out of the counts in their heartbeats."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tppo.process.presence import Presence


@dataclass(frozen=True, kw_only=True)
class GenerationTotals:
    """What generators did, whatever for."""

    seconds_busy: float = 0.0
    """Sum over generators of the time in which they computed."""
    num_tokens: int = 0
    num_decode_steps: int = 0
    num_active_slot_steps: int = 0
    """Sum over decode steps of the slots in use."""
    num_slot_steps: int = 0
    """Sum over decode steps of all slots."""

    def __add__(self, other: "GenerationTotals") -> "GenerationTotals":
        mine, theirs = asdict(self), asdict(other)
        return GenerationTotals(**{name: mine[name] + theirs[name] for name in mine})


class GenerationTally:
    """Adds up generators over their restarts: the last heartbeat of each process of each generator counts."""

    def __init__(self, earlier: GenerationTotals | None = None) -> None:
        self._earlier = earlier or GenerationTotals()
        self._last_seen: dict[tuple[str, float], GenerationTotals] = {}

    def observe(self, name: str, started_at: float, status: dict[str, Any]) -> None:
        """Take a generator's own numbers; `started_at` distinguishes a process from its restart."""
        num_decode_steps = int(status.get("num_decode_steps", 0))
        self._last_seen[name, started_at] = GenerationTotals(
            seconds_busy=float(status.get("busy_seconds", 0.0)),
            num_tokens=int(status.get("num_tokens_generated", 0)),
            num_decode_steps=num_decode_steps,
            num_active_slot_steps=int(status.get("num_active_slot_steps", 0)),
            num_slot_steps=num_decode_steps * int(status.get("num_slots", 0)),
        )

    def observe_all(self, presences: Iterable[Presence]) -> None:
        """Take the numbers of the generators among those present."""
        for presence in presences:
            if presence.kind == "generation":
                self.observe(presence.name, presence.started_at, presence.status)

    def totals(self) -> GenerationTotals:
        """The sum so far, with what an earlier session of the same run left."""
        return sum(self._last_seen.values(), self._earlier)
