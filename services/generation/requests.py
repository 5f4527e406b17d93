"""What holds for a window request whichever engine serves it."""

import math
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace

from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens
from tppo.weight_probe import ProbeRow


def check_request(request: WindowRequest, *, capacity: int, vocabulary_size: int, forced: Sequence[int] = ()) -> None:
    """Refuse what would fail, or be wrong, inside an engine whose rows have `capacity` tokens at most.

    `forced`: tokens of a probe, that are decoded whatever is likely.
    """
    num_tokens = len(request.prompt_tokens) + len(request.response_tokens)
    if not request.prompt_tokens or request.max_new_tokens < 0 or not 0 <= request.temperature < math.inf:
        raise ValueError(
            f"{len(request.prompt_tokens)} prompt tokens, max_new_tokens {request.max_new_tokens}, temperature "
            f"{request.temperature}; expected at least one prompt token and finite numbers of at least 0"
        )
    if num_tokens + request.max_new_tokens > capacity:
        raise ValueError(
            f"{num_tokens} tokens and {request.max_new_tokens} new ones exceed the limit of {capacity} "
            "(run.max_prompt_length + run.max_response_length)"
        )
    largest = max((*request.prompt_tokens, *request.response_tokens, *forced))
    smallest = min((*request.prompt_tokens, *request.response_tokens, *forced))
    if smallest < 0 or largest >= vocabulary_size:
        raise ValueError(f"token ids {smallest}..{largest}; expected them in 0..{vocabulary_size - 1}")


def add_span(
    spans: list[VersionSpan], policy_version: int, num_tokens: int, *, cache_version: int | None = None
) -> None:
    """Note that so many further tokens are of the version, and on which KV cache where that is of an older one."""
    of_cache = None if cache_version == policy_version else cache_version
    if spans and (spans[-1].policy_version, spans[-1].cache_version) == (policy_version, of_cache):
        num_tokens += spans.pop().num_tokens
    if num_tokens:
        spans.append(VersionSpan(policy_version, num_tokens, of_cache))


def empty_window(request: WindowRequest) -> Window:
    """The answer to a request of no tokens."""
    return Window(
        rollout_id=request.rollout_id,
        window_index=request.window_index,
        tokens=tokens(),
        logprobs=logprobs(),
        version_spans=(),
        finish_reason=FinishReason.LENGTH,
        is_evaluation=request.is_evaluation,
    )


def failed_window(request: WindowRequest, error: str, *, started_at: float) -> Window:
    """The answer to a request that cannot be served, with the cause."""
    return replace(
        empty_window(request),
        finish_reason=FinishReason.FAILED,
        started_at=started_at,
        ended_at=time.time(),
        error=error,
    )


def ended_window(
    request: WindowRequest,
    sampled: "array[int]",
    sampled_logprobs: "array[float]",
    spans: Sequence[VersionSpan],
    reason: FinishReason,
    *,
    slot: int,
    started_at: float,
) -> Window:
    """The answer to a request that has run, and ends now."""
    return Window(
        rollout_id=request.rollout_id,
        window_index=request.window_index,
        tokens=sampled,
        logprobs=sampled_logprobs,
        version_spans=tuple(spans),
        finish_reason=reason,
        slot=slot,
        started_at=started_at,
        ended_at=time.time(),
        is_evaluation=request.is_evaluation,
    )


def forced_request(row: ProbeRow, temperature: float) -> WindowRequest:
    """A row of a probe as a window."""
    return WindowRequest(
        rollout_id="",
        window_index=0,
        prompt_tokens=tokens(row.prompt_tokens),
        response_tokens=tokens(),
        max_new_tokens=len(row.response_tokens),
        stop_token_ids=(),
        temperature=temperature,
        seed=0,
        is_evaluation=True,  # occupancy is that of training windows
    )
