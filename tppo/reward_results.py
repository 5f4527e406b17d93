"""What a user's reward function is called with, and what its return value says, as messages."""

import json
import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tppo.v1 import reward_pb2 as pb
from tppo.v1 import rollout_pb2

SCORED = rollout_pb2.SCORE_STATUS_SCORED
ABSTAINED = rollout_pb2.SCORE_STATUS_ABSTAINED
FAILED = rollout_pb2.SCORE_STATUS_FAILED
MAX_CAUSE_CHARS = 1000
SINGLE = ("data_source", "solution_str", "ground_truth", "extra_info")  # verl's names
BATCHED = ("data_sources", "solution_strs", "ground_truths", "extra_infos")

Limits = tuple[float | None, float | None]


def arguments_of(work: Sequence[pb.Work], *, is_batched: bool) -> dict[str, Any]:
    """The keyword arguments: of the one piece of work, or lists over all."""
    rows = [_row(one) for one in work]
    if is_batched:
        return {name: list(column) for name, column in zip(BATCHED, zip(*rows, strict=True), strict=True)}
    (row,) = rows
    return dict(zip(SINGLE, row, strict=True))


def results_of(work: Sequence[pb.Work], returned: Sequence[Any], limits: Limits) -> list[pb.WorkResult]:
    """A result for each piece of work; what cannot be a score is a failure. Raises ValueError on a wrong count."""
    if len(returned) != len(work):
        raise ValueError(f"the function returned {len(returned)} scores for {len(work)} responses")
    return [_result(one, value, limits) for one, value in zip(work, returned, strict=True)]


def failure(work: pb.Work, cause: str) -> pb.WorkResult:
    """No score, and why."""
    return pb.WorkResult(
        lease_id=work.lease_id, rollout_id=work.request.rollout_id, status=FAILED, error=cause[:MAX_CAUSE_CHARS]
    )


def _row(work: pb.Work) -> tuple[str, str, str, Any]:
    request = work.request
    return request.data_source, request.response, request.ground_truth, json.loads(request.extra_info or "{}")


def _result(work: pb.Work, value: Any, limits: Limits) -> pb.WorkResult:
    try:
        table = dict(value) if isinstance(value, Mapping) else {"score": value}
        token_rewards = _token_rewards(table.pop("token_rewards", ()), work.request.num_response_tokens)
        score = table.pop("score")
        if score is None:
            return pb.WorkResult(lease_id=work.lease_id, rollout_id=work.request.rollout_id, status=ABSTAINED)
        return pb.WorkResult(
            lease_id=work.lease_id,
            rollout_id=work.request.rollout_id,
            status=SCORED,
            score=_checked(score, limits),
            components={str(name): _finite(number) for name, number in table.items() if _is_number(number)},
            token_rewards=token_rewards,
        )
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        return failure(work, f"the function returned {value!r:.200}: {type(error).__name__}: {error}")


def _checked(score: Any, limits: Limits) -> float:
    number = _finite(score)
    minimum, maximum = limits
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"expected a score from {minimum} to {maximum}")
    return number


def _is_number(value: object) -> bool:
    """Texts and other entries of a table are left out."""
    return isinstance(value, (int, float)) or hasattr(value, "__float__")


def _finite(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError("expected a number, not a text")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _token_rewards(values: Iterable[float], num_tokens: int) -> bytes:
    """Little-endian float32, one for each token of the response."""
    rewards = array("f", values)
    if len(rewards) not in (0, num_tokens):
        raise ValueError(f"{len(rewards)} token rewards; expected {num_tokens}")
    if sys.byteorder == "big":
        rewards.byteswap()
    return rewards.tobytes()
