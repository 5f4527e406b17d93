"""One response: its tokens with what sampling and training knew about each, and its prompt."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from services.dashboard.api_model import ApiModel
from services.dashboard.tokens.prompts import Prompts, Remembered
from services.dashboard.tokens.traces import Rows, rows_of
from tppo.run_folder.paths import trace_path

MAX_TOKENIZERS = 4
MAX_STEPS = 512
"""Traces that are opened for one response: the windows of the longest that were planned for."""


class TokenColumns(ApiModel):
    """One entry per token, by position in the response; null where a column is not defined (docs/traces.md)."""

    position: list[int]
    text: list[str]
    """What the token adds to the text; a character that several tokens make stands at the last of them."""
    token_id: list[int]
    window: list[int | None]
    policy_version: list[int]
    rollout_logprob: list[float | None]
    old_logprob: list[float | None]
    ratio: list[float | None]
    is_clipped: list[bool | None]
    value: list[float | None]
    raw_advantage: list[float | None]
    advantage: list[float | None]
    returns: list[float | None] = Field(serialization_alias="return")
    """What the response earned, discounted by the distance to its last token."""
    policy_mask: list[bool]
    value_mask: list[bool]
    is_sampled: list[bool]
    """Whether the policy sampled the token; a tool's output is not, and trains nothing."""


@dataclass(frozen=True)
class WantedResponse:
    """Which response, and where its parts may lie."""

    traces: Path
    rollout: str
    steps: tuple[int, ...]
    """That trained it."""
    num_tokens: int
    """That were sampled."""
    prompt: int | None
    data_files: tuple[Path, ...]
    prompt_key: str
    is_evaluation: bool
    is_traced: bool
    tokenizer_files: Callable[[], Sequence[Path]]


@dataclass(frozen=True)
class TracedResponse:
    """What was found."""

    prompt_text: str | None = None
    ground_truth: str | None = None
    text: str | None = None
    tokens: TokenColumns | None = None
    tokens_missing: str = ""


class ResponseReader:
    """Reads responses; called in threads. What it keeps in memory is bounded."""

    def __init__(self) -> None:
        self._prompts = Prompts()
        self._tokenizers: Remembered[tuple[Path, float], Tokenizer | None] = Remembered(MAX_TOKENIZERS)

    def read(self, wanted: WantedResponse) -> TracedResponse:
        """Everything that is there."""
        prompt = None
        if wanted.prompt is not None:
            prompt = self._prompts.row(wanted.data_files, wanted.prompt, wanted.prompt_key)
        rows, num_missing_steps = _joined(wanted)
        tokenizer = self._tokenizer(wanted) if rows else None
        token_ids = [row["token_id"] for row in rows]
        return TracedResponse(
            prompt_text=prompt.text if prompt else None,
            ground_truth=prompt.ground_truth if prompt else None,
            text=tokenizer.decode(token_ids, skip_special_tokens=False) if tokenizer and rows else None,
            tokens=_columns(rows, texts_of(tokenizer, token_ids)) if rows else None,
            tokens_missing=_what_is_missing(wanted, len(rows), num_missing_steps),
        )

    def _tokenizer(self, wanted: WantedResponse) -> Tokenizer | None:
        for path in wanted.tokenizer_files():
            if path.is_file():
                return self._tokenizers.of((path, path.stat().st_mtime), lambda path=path: _loaded(path))  # type: ignore[misc]
        return None


def texts_of(tokenizer: Tokenizer | None, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; empty texts without a tokenizer."""
    if tokenizer is None:
        return [""] * len(token_ids)
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, token_id) or "" for token_id in token_ids]


def _loaded(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises nothing narrower for a file that it cannot use
        return None


def _joined(wanted: WantedResponse) -> tuple[list[dict[str, Any]], int]:
    """A row per token in order, and how many traces are missing.

    A token's row for the policy is in the trace of the step that took its window; its return, and its row for the value
    model, are in the trace of the step that took the last window.
    """
    of_policy: dict[int, dict[str, Any]] = {}
    of_value: dict[int, dict[str, Any]] = {}
    num_missing = 0
    for step in wanted.steps[:MAX_STEPS]:
        columns = rows_of(trace_path(wanted.traces, step), wanted.rollout)
        num_missing += columns is None
        for row in _rows(columns or {}):
            (of_policy if row["in_window"] else of_value)[row["position"]] = row
    for position, row in of_value.items():
        known = of_policy.setdefault(position, row)
        known["return"], known["value_mask"] = row["return"], row["value_mask"]
    return [of_policy[position] for position in sorted(of_policy)], num_missing


def _rows(columns: Rows) -> list[dict[str, Any]]:
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _columns(rows: Sequence[dict[str, Any]], texts: list[str]) -> TokenColumns:
    def column(name: str) -> list[Any]:
        return [_finite(row[name]) for row in rows]

    same = ("position", "token_id", "policy_version", "rollout_logprob", "old_logprob", "ratio", "is_clipped", "value")
    rest = ("raw_advantage", "advantage", "policy_mask", "value_mask", "is_sampled")
    return TokenColumns(
        text=texts,
        window=column("window_index"),
        returns=column("return"),
        **{name: column(name) for name in (*same, *rest)},
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _what_is_missing(wanted: WantedResponse, num_tokens: int, num_missing_steps: int) -> str:
    if wanted.is_evaluation:
        return "evaluation trains nothing, so there is no trace of its tokens"
    if not wanted.steps:
        return "no window of it has been trained yet, and only training writes traces"
    if num_tokens == 0:
        if not wanted.is_traced:
            return "the run keeps no traces; expected trace.enabled = true in its configuration"
        return "the traces of its steps are not there (yet)"
    if num_missing_steps or num_tokens < wanted.num_tokens:
        return f"{num_tokens} of {wanted.num_tokens} tokens: the traces of the other windows are not there (yet)"
    return ""
