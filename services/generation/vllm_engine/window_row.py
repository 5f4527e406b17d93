"""One window while vLLM extends it: from the request to vLLM's parameters, and from its outputs to the window."""

import math
import time
from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from services.generation.engine import OnTokens, RunningWindow
from services.generation.requests import add_span, ended_window
from services.generation.transformers_engine.sampling import GOLDEN_GAMMA, mixed
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens

ENDINGS = ("stop", "length")
"""vLLM's words for how a request ends by itself."""


class WeightLabel(NamedTuple):
    """How vLLM is to call the weights: it names those that sampled each token, and keeps their KV caches apart."""

    incarnation: int
    policy_version: int

    def text(self) -> str:
        """What vLLM is given."""
        return f"{self.incarnation}:{self.policy_version}"

    def salt(self) -> str:
        """Of the prefix cache, within which alone requests share what they begin with."""
        return self.text()

    @classmethod
    def of(cls, text: str) -> "WeightLabel":
        """What vLLM gives back."""
        return cls(*map(int, text.split(":")))


def stream_seed(seed: int, num_before: int) -> int:
    """For the random numbers of a request to vLLM, of 63 bits.

    vLLM begins a request's stream at its seed. A rollout has one seed and several windows, which would all draw the
    same numbers; so the number of tokens in front is mixed in, as the transformers engine does for each token.
    """
    stream = mixed(np.array([seed], dtype=np.uint64))
    return int(mixed(stream + np.array([num_before], dtype=np.uint64) * GOLDEN_GAMMA)[0]) >> 1


@dataclass(eq=False, slots=True)
class WindowRow:
    """Collects what vLLM streams, and is the window at the end."""

    request: WindowRequest
    on_tokens: OnTokens | None = None
    is_cut: bool = False  # to end with what it has
    slot: int = -1
    started_at: float = field(default_factory=time.time)
    tokens: "array[int]" = field(default_factory=tokens)
    logprobs: "array[float]" = field(default_factory=logprobs)
    spans: list[VersionSpan] = field(default_factory=list)
    finish_reason: str | None = None  # vLLM's, of the request that ended last
    num_prefilled: int = 0  # tokens that vLLM did not find in its prefix cache
    num_shared: int = 0  # those that it found there
    cache_versions: dict[int, int] = field(default_factory=dict)
    """By weights that an update brought to the request that runs: the older ones whose KV cache it went on with."""

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to request."""
        return self.is_cut or self.finish_reason in ENDINGS

    @property
    def is_sound(self) -> bool:
        """Whether all log-probabilities are numbers; weights near overflow can produce others."""
        return all(map(math.isfinite, self.logprobs))

    @property
    def num_before(self) -> int:
        """Tokens in front of the next one."""
        return len(self.request.prompt_tokens) + len(self.request.response_tokens) + len(self.tokens)

    @property
    def num_left(self) -> int:
        """Tokens that it may still get."""
        return self.request.max_new_tokens - len(self.tokens)

    @property
    def seed(self) -> int:
        """Of the numbers that the next tokens are drawn with."""
        return stream_seed(self.request.seed, self.num_before)

    def before(self) -> list[int]:
        """Those tokens: the ids themselves, never text, so that nothing is tokenized another way."""
        return [*self.request.prompt_tokens, *self.request.response_tokens, *self.tokens]

    def take(self, output: Any) -> int:
        """The next part of a request's stream, a `RequestOutput`; the number of its tokens."""
        part = output.outputs[0]
        if part.token_ids:
            sampled = [part.logprobs.logprobs[start] for start in part.logprobs.start_indices]
            self.tokens.extend(part.token_ids)
            self.logprobs.extend(sampled)
            if self.on_tokens is not None:
                self.on_tokens(list(part.token_ids), sampled)
        self.finish_reason = part.finish_reason
        if part.finish_reason is not None:
            self._end_request(output)
        return len(part.token_ids)

    def _end_request(self, output: Any) -> None:
        num_shared = output.num_cached_tokens or 0
        self.num_shared += num_shared
        self.num_prefilled += len(output.prompt_token_ids) - num_shared
        for label in output.outputs[0].weight_versions or []:
            version = WeightLabel.of(label.version).policy_version
            kept = self.cache_versions.get(version)
            add_span(self.spans, version, label.end - label.start, cache_version=kept)
        self.cache_versions.clear()

    def keep_cache(self, old_version: int, new_version: int) -> None:
        """An update leaves the KV cache of the request that runs as it is."""
        self.cache_versions[new_version] = self.cache_versions.get(old_version, old_version)

    def running(self) -> RunningWindow:
        """How far it has come."""
        return RunningWindow(
            self.slot,
            self.request.rollout_id,
            self.request.window_index,
            self.started_at,
            num_tokens=len(self.tokens),
        )

    def window(self) -> Window:
        """The result. ValueError: its numbers are not finite."""
        if not self.is_sound:
            raise ValueError("the model's logits are not finite numbers")
        return ended_window(
            self.request,
            self.tokens,
            self.logprobs,
            self.spans,
            self._reason(),
            slot=self.slot,
            started_at=self.started_at,
        )

    def _reason(self) -> FinishReason:
        if self.tokens and self.tokens[-1] in self.request.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_left == 0 else FinishReason.CUT
