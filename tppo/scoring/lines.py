"""Responses and their scores as lines of JSON: what `tppo score` and `tppo remote-score` read and print."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tppo.config import ConfigError
from tppo.rollout import FinishReason, RewardRequest, Score, ScoreStatus

T = TypeVar("T")
FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}

DESCRIPTION = (
    'Score lines of {"response", "ground_truth"}, with "data_source" and "extra_info" if you like. '
    'Prints lines of {"status", "score", "components", "seconds", "error"} in the same order.'
)


class UnreadableLineError(ValueError):
    """A line that is no request; the text says why."""

    def as_score(self) -> Score:
        """The failure that answers the line."""
        return Score(rollout_id="", attempt=0, status=ScoreStatus.FAILED, error=str(self))


@contextmanager
def opened(path: Path) -> Iterator[Iterable[str]]:
    """The file's lines; `-` is the standard input. Raises `ConfigError`."""
    if str(path) == "-":
        yield sys.stdin
        return
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file of JSON lines") from None
    with file:
        yield file


def requests_in(lines: Iterable[str]) -> Iterator[RewardRequest | UnreadableLineError]:
    """A request for each line that is not empty."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _request(number, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                yield UnreadableLineError(
                    f'line {number}: {error!r}; expected an object with "response", "ground_truth"'
                )


async def results_in_order(coroutines: Iterable[Coroutine[Any, Any, T]], *, max_under_way: int) -> AsyncIterator[T]:
    """The results of many coroutines in their order, of which so many run at a time."""
    under_way: deque[asyncio.Task[T]] = deque()
    try:
        for coroutine in coroutines:
            under_way.append(asyncio.create_task(coroutine))
            if len(under_way) == max_under_way:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()


def score_fields(score: Score) -> dict[str, Any]:
    """What a printed line holds about a score."""
    return {
        "status": score.status.name,
        "score": score.score,
        "components": dict(score.components),
        "seconds": round(score.duration_seconds, 6),
        "error": score.error,
        **({"details": score.details} if score.details else {}),
    }


def print_score(score: Score) -> None:
    """One line on standard output."""
    print(json.dumps(score_fields(score), ensure_ascii=False))  # noqa: T201 - what the verbs are for


def _request(number: int, row: Any) -> RewardRequest:
    if not isinstance(row, dict):
        raise TypeError(f"it is a {type(row).__name__}")
    return RewardRequest(
        rollout_id=f"line-{number}",
        attempt=0,
        data_source=str(row.get("data_source", "")),
        prompt=_text(row.get("prompt", "")),
        response=_text(row["response"]),
        ground_truth=_text(row["ground_truth"]),
        extra_info=json.dumps(row.get("extra_info") or {}),
        num_response_tokens=int(row.get("num_response_tokens", 0)),
        finish_reason=_finish_reason(row.get("finish_reason")),
    )


def _finish_reason(name: object) -> FinishReason | None:
    if name is None or name in FINISH_REASONS:
        return FINISH_REASONS[str(name)] if name else None
    raise ValueError(f"finish_reason {name!r}: expected {' or '.join(FINISH_REASONS)}")


def _text(value: object) -> str:
    """A text as it is; a number or a list as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
