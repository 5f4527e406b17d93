"""What an attached process sends, as records."""

from services.reward.attached.offer import CallStart, InvalidMessageError, Offer, WorkAnswer
from tppo.rollout import ScoreStatus
from tppo.scoring.outcome import MAX_DETAILS_CHARS, ScoreRange
from tppo.v1 import reward_pb2 as pb

KNOWN_STATUSES = {int(status): status for status in ScoreStatus}


def offer_record(first: pb.AttachRequest | None) -> Offer:
    """The offer that a stream begins with. Raises `InvalidMessageError`."""
    if first is None or first.WhichOneof("message") != "offer":
        raise InvalidMessageError("expected an offer as the first message")
    return Offer(
        {function.name: _range(function) for function in first.offer.functions},
        max_held=first.offer.max_held,
        process=first.offer.process[:200],
        reports_starts=first.offer.reports_starts,
    )


def _range(function: pb.OfferedFunction) -> ScoreRange:
    bounds = {}
    if function.HasField("min_score"):
        bounds["minimum"] = function.min_score
    if function.HasField("max_score"):
        bounds["maximum"] = function.max_score
    try:
        return ScoreRange(**bounds)
    except ValueError as error:
        raise InvalidMessageError(str(error)) from None


def start_record(started: pb.Started) -> CallStart:
    return CallStart(started.function, tuple(started.lease_ids))


def answer_record(result: pb.WorkResult) -> WorkAnswer:
    return WorkAnswer(
        result.lease_id,
        result.rollout_id,
        KNOWN_STATUSES.get(result.status),
        result.score if result.HasField("score") else None,
        dict(result.components),
        result.error,
        len(result.token_rewards),
        result.details[:MAX_DETAILS_CHARS],
    )
