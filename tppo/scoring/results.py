"""What a user's reward function is called with, and its outcome, as messages."""

import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tppo.rollout import ScoreStatus
from tppo.scoring.outcome import TOKEN_REWARDS, Outcome, ScoreRange, failed, outcome_of
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import rollout_pb2

SINGLE = ("data_source", "solution_str", "ground_truth", "extra_info")  # verl's names
BATCHED = ("data_sources", "solution_strs", "ground_truths", "extra_infos")


def arguments_of(work: Sequence[pb.Work], *, is_batched: bool) -> dict[str, Any]:
    """The keyword arguments: of the one piece of work, or lists over all."""
    rows = [_row(one) for one in work]
    if is_batched:
        return {name: list(column) for name, column in zip(BATCHED, zip(*rows, strict=True), strict=True)}
    (row,) = rows
    return dict(zip(SINGLE, row, strict=True))


def results_of(work: Sequence[pb.Work], returned: Sequence[Any], scores: ScoreRange) -> list[pb.WorkResult]:
    """A result for each piece of work; all fail when what was returned is not as long as the work."""
    if len(returned) != len(work):
        cause = f"the function returned {len(returned)} scores for {len(work)} responses"
        return [failure(one, cause) for one in work]
    return [_result(one, value, scores) for one, value in zip(work, returned, strict=True)]


def failure(work: pb.Work, cause: str) -> pb.WorkResult:
    """No score, and why."""
    return _message(work, failed(cause))


def late(work: pb.Work, cause: str) -> pb.WorkResult:
    """No score, since the call had not ended at its deadline."""
    return _message(work, replace(failed(cause), status=ScoreStatus.TIMED_OUT))


def _row(work: pb.Work) -> tuple[str, str, str, Any]:
    request = work.request
    return request.data_source, request.response, request.ground_truth, json.loads(request.extra_info or "{}")


def _result(work: pb.Work, value: Any, scores: ScoreRange) -> pb.WorkResult:
    outcome = outcome_of(value, scores)
    if outcome.score is None or not isinstance(value, Mapping) or TOKEN_REWARDS not in value:
        return _message(work, outcome)
    try:
        return _message(work, outcome, _token_rewards(value[TOKEN_REWARDS], work.request.num_response_tokens))
    except (TypeError, ValueError, OverflowError) as error:
        return failure(work, f"the function returned {TOKEN_REWARDS}: {error}")


def _message(work: pb.Work, outcome: Outcome, token_rewards: bytes = b"") -> pb.WorkResult:
    return pb.WorkResult(
        lease_id=work.lease_id,
        rollout_id=work.request.rollout_id,
        status=rollout_pb2.ScoreStatus.ValueType(outcome.status),
        score=outcome.score,
        components=outcome.components,
        error=outcome.error,
        token_rewards=token_rewards,
        details=outcome.details,
    )


def _token_rewards(values: Iterable[float], num_tokens: int) -> bytes:
    """Little-endian float32, one for each token of the response."""
    rewards = array("f", values)
    if len(rewards) not in (0, num_tokens):
        raise ValueError(f"{len(rewards)} numbers; expected {num_tokens}, one for each token of the response")
    if sys.byteorder == "big":
        rewards.byteswap()
    return rewards.tobytes()
