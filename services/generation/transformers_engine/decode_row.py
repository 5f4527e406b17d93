"""One window while it is being generated."""

import math
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from services.generation.engine import RunningWindow
from services.generation.requests import add_span, ended_window
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens


@dataclass(eq=False, slots=True)
class DecodeRow:
    """WAITING (no slot) -> RUNNING (a slot, and a row of the decoder) -> ended (its future is resolved).

    Cancelled through its future at any time; the decode loop then drops it before the next step. A row of a probe takes
    the tokens that it is forced to, and has no slot.
    """

    request: WindowRequest
    on_token: Callable[[int, float], None] | None = None  # called in the decode loop's thread
    forced: Sequence[int] = ()  # a probe's tokens
    future: "Future[Window]" = field(default_factory=Future)
    slot: int = -1
    started_at: float = 0.0
    tokens: "array[int]" = field(default_factory=tokens)
    logprobs: "array[float]" = field(default_factory=logprobs)
    spans: list[VersionSpan] = field(default_factory=list)
    is_cut: bool = False  # ended before its time
    cache_version: int | None = None  # weights older than those in use that its KV cache is of
    stop_tokens: frozenset[int] = frozenset()
    limit: int = 0

    def __post_init__(self) -> None:
        """Keep what the decode loop needs at every token within reach."""
        self.stop_tokens = frozenset(self.request.stop_token_ids)
        self.limit = self.request.max_new_tokens

    @property
    def num_tokens(self) -> int:
        """Length of prompt, response and window so far."""
        return len(self.request.prompt_tokens) + len(self.request.response_tokens) + len(self.tokens)

    @property
    def last_token(self) -> int:
        """The token after which the next one is sampled."""
        return (self.tokens or self.request.response_tokens or self.request.prompt_tokens)[-1]

    def prefix(self) -> list[int]:
        """Prompt, response and window so far."""
        return [*self.request.prompt_tokens, *self.request.response_tokens, *self.tokens]

    @property
    def forced_token(self) -> int:
        """The token that comes next whatever is likely; -1: one that is sampled."""
        return self.forced[len(self.tokens)] if self.forced else -1

    def start(self, slot: int) -> None:
        """Take a slot."""
        self.slot = slot
        self.started_at = time.time()

    def running(self) -> RunningWindow:
        """How far it has come."""
        request = self.request
        return RunningWindow(
            self.slot, request.rollout_id, request.window_index, self.started_at, num_tokens=len(self.tokens)
        )

    def close_span(self, policy_version: int) -> None:
        """Note that the tokens since the last span were sampled by `policy_version`."""
        num_tokens = len(self.tokens) - sum(span.num_tokens for span in self.spans)
        add_span(self.spans, policy_version, num_tokens, cache_version=self.cache_version)

    def keep_cache(self, policy_version: int) -> None:
        """Newer weights go on with the KV cache that these have filled."""
        if self.cache_version is None:
            self.cache_version = policy_version

    def renew_cache(self, policy_version: int) -> None:
        """The weights in use fill the KV cache again."""
        self.close_span(policy_version)
        self.cache_version = None

    @property
    def is_sound(self) -> bool:
        """Whether all log-probabilities are numbers; weights near overflow can produce others."""
        return all(map(math.isfinite, self.logprobs))

    def resolve(self) -> None:
        """Deliver the window, unless it was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if self.is_sound or self.forced:
            self.future.set_result(self._window())
        else:
            self.future.set_exception(ValueError("the model's logits are not finite numbers"))

    def _window(self) -> Window:
        return ended_window(
            self.request,
            self.tokens,
            self.logprobs,
            self.spans,
            self._finish_reason(),
            slot=self.slot,
            started_at=self.started_at,
        )

    def _finish_reason(self) -> FinishReason:
        if self.is_cut:
            return FinishReason.CUT
        has_stopped = bool(self.tokens) and self.tokens[-1] in self.stop_tokens
        return FinishReason.STOP if has_stopped else FinishReason.LENGTH
