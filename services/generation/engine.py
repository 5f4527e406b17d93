"""What the request handler needs of an engine."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tppo.rollout import Window, WindowRequest
from tppo.weight_probe import ProbeRow
from tppo.weights import WeightUpdate

OnTokens = Callable[[Sequence[int], Sequence[float]], None]
"""Takes new tokens of a window and their log-probabilities, on the event loop, in their order."""


@dataclass(frozen=True, slots=True)
class RunningWindow:
    """A slot that is in use."""

    slot: int
    rollout_id: str
    window_index: int
    started_at: float  # seconds since the epoch
    num_tokens: int  # sampled for the window so far


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counts since the start, and what runs now; occupancy is num_active_slot_steps / num_decode_steps / num_slots.

    An evaluation ends with a few long responses in otherwise empty slots; decode steps that serve nothing but
    evaluations are therefore left out of both counts.
    """

    num_slots: int
    num_active: int
    num_waiting: int  # accepted by the engine, without a slot yet
    num_tokens_generated: int
    num_decode_steps: int  # in which a training window ran
    num_active_slot_steps: int  # sum over these steps of the rows that ran
    num_prefill_tokens: int
    busy_seconds: float
    num_shared_prefill_tokens: int = 0  # whose KV cache was copied from another row with the same prefix
    kv_cache_use: float | None = None  # share of the KV cache's room that running rows take; None: not known
    running: tuple[RunningWindow, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What the engine's decode path says of forced tokens."""

    policy_version: int  # of the weights that decoded them, the newest of these where an update came in between
    logprobs: "tuple[array[float], ...]"  # float32, of each row's response tokens; may hold what is not a number
    num_earlier: tuple[int, ...] = ()  # of each row, the first tokens, which earlier weights decoded; empty: none


@dataclass(frozen=True, slots=True)
class CrossedRow:
    """A row that began before a weight update and went on after it, and one that began after it beside the first."""

    row: ProbeRow  # with the tokens that both got, which need not be those that were forced
    logprobs: "array[float]"  # of the first
    num_earlier: int  # of its first tokens, which earlier weights decoded; none, or all, where no update met it
    policy_version: int  # of the newest weights that decoded it
    afterwards: "array[float]"  # of the second
    answer: ProbeAnswer | None = None  # to all rows of the probe, where they began with the update


class EngineFailedError(Exception):
    """The engine can serve nothing more; its process is to end, so that a new one begins."""


class Engine(Protocol):
    """Extends responses by windows of tokens, and takes new weights while it does."""

    @property
    def num_slots(self) -> int:
        """Windows that run at once."""
        ...

    @property
    def policy_version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        ...

    async def generate(self, request: WindowRequest, on_tokens: OnTokens | None = None) -> Window:
        """The window, when it has ended; cancelling frees the slot. ValueError: it can never be served.

        `on_tokens` is given the tokens as they come, all of them before the window.
        """
        ...

    async def cut(self, rollout_id: str, window_index: int) -> None:
        """Let this window end now with the tokens that it has, perhaps none: `generate` returns it, finish reason CUT.

        Nothing where no such window is under way.
        """
        ...

    async def probe(self, rows: Sequence[ProbeRow], *, temperature: float = 1.0) -> ProbeAnswer:
        """Decode the rows' response tokens, whatever is likely, on the way and under the weights that windows have.

        Rows begin soon, even where every slot is in use, and leave the windows that run as they are; at an update they
        fare as windows do. `temperature` is that of sampling and counts as 1 when it is 0; cancelling drops the rows.
        ValueError: rows that do not fit.
        """
        ...

    async def probe_across_update(
        self, rows: Sequence[ProbeRow], crossing: int, *, temperature: float = 1.0
    ) -> CrossedRow:
        """Let row `crossing` begin under the weights in use when the next update is ready, and go on as windows do.

        For updates that are taken in flight. The others may begin with the update, for an `answer`. Until then rows
        wait; cancelling drops them. ValueError: rows that do not fit.
        """
        ...

    async def update_weights(self, update: WeightUpdate) -> str:
        """Digest of what is loaded; every later token comes from it. ValueError: it does not fit, nothing changed.

        `EngineFailedError`: it went wrong half-way. The engine may keep the tensors, and writes to none.
        """
        ...

    @property
    def is_asleep(self) -> bool:
        """Whether it has freed its memory, until the next weights are in use."""
        ...

    async def sleep(self, *, keeps_weights: bool) -> None:
        """Free the KV caches, and the weights unless they are kept; `update_weights` wakes it.

        Windows that run are held, and go on after that with KV caches made again; where new weights wait for the
        running windows to end, so does this. Those that come meanwhile wait.
        """
        ...

    def statistics(self) -> EngineStatistics:
        """What it has done and does."""
        ...

    async def close(self) -> None:
        """Stops the engine; windows that still run are cancelled."""
        ...
