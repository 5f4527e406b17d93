"""Records <-> protobuf bytes; the only place that knows both.

Token ids and log-probabilities cross as little-endian int32 and float32 in `bytes` fields: a window of 8192 tokens
takes tens of microseconds, a repeated field takes milliseconds. What cannot be decoded raises ValueError.
"""

import sys
from array import array
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from tppo.rollout import (
    Action,
    Command,
    FinishReason,
    InboxRecord,
    RewardRequest,
    Score,
    ScoreStatus,
    VersionSpan,
    Window,
    WindowRequest,
    logprobs,
    tokens,
)
from tppo.v1 import rollout_pb2 as pb

AnyMessage = TypeVar("AnyMessage", bound=Message)
Number = TypeVar("Number", int, float)

FINISH_REASONS = {int(reason): reason for reason in FinishReason}


def encode_window_request(request: WindowRequest) -> bytes:
    """The bytes of a tppo.v1.WindowRequest."""
    return pb.WindowRequest(
        rollout_id=request.rollout_id,
        window_index=request.window_index,
        prompt_tokens=_to_bytes(request.prompt_tokens),
        response_tokens=_to_bytes(request.response_tokens),
        max_new_tokens=request.max_new_tokens,
        stop_token_ids=request.stop_token_ids,
        temperature=request.temperature,
        seed=request.seed,
        min_policy_version=request.min_policy_version,
        is_evaluation=request.is_evaluation,
    ).SerializeToString()


def decode_window_request(payload: bytes) -> WindowRequest:
    """The inverse of `encode_window_request`."""
    message = parsed_message(pb.WindowRequest(), payload)
    return WindowRequest(
        rollout_id=message.rollout_id,
        window_index=message.window_index,
        prompt_tokens=_from_bytes(tokens(), message.prompt_tokens, "prompt_tokens"),
        response_tokens=_from_bytes(tokens(), message.response_tokens, "response_tokens"),
        max_new_tokens=message.max_new_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        temperature=message.temperature,
        seed=message.seed,
        min_policy_version=message.min_policy_version,
        is_evaluation=message.is_evaluation,
    )


def encode_reward_request(request: RewardRequest) -> bytes:
    """The bytes of a tppo.v1.RewardRequest."""
    return reward_request_message(request).SerializeToString()


def decode_reward_request(payload: bytes) -> RewardRequest:
    """The inverse of `encode_reward_request`."""
    return reward_request_record(parsed_message(pb.RewardRequest(), payload))


def reward_request_message(request: RewardRequest) -> pb.RewardRequest:
    """The message, for calls that carry it inside of others."""
    return pb.RewardRequest(
        rollout_id=request.rollout_id,
        attempt=request.attempt,
        data_source=request.data_source,
        prompt=request.prompt,
        response=request.response,
        ground_truth=request.ground_truth,
        extra_info=request.extra_info,
        num_response_tokens=request.num_response_tokens,
        is_evaluation=request.is_evaluation,
        finish_reason=pb.FinishReason.ValueType(request.finish_reason or 0),
        num_not_sampled_tokens=request.num_not_sampled_tokens,
    )


def reward_request_record(message: pb.RewardRequest) -> RewardRequest:
    """The inverse of `reward_request_message`."""
    return RewardRequest(
        rollout_id=message.rollout_id,
        attempt=message.attempt,
        data_source=message.data_source,
        prompt=message.prompt,
        response=message.response,
        ground_truth=message.ground_truth,
        extra_info=message.extra_info,
        num_response_tokens=message.num_response_tokens,
        is_evaluation=message.is_evaluation,
        finish_reason=FINISH_REASONS.get(message.finish_reason),
        num_not_sampled_tokens=message.num_not_sampled_tokens,
    )


def encode_inbox_record(record: InboxRecord) -> bytes:
    """The bytes of a tppo.v1.InboxRecord that holds the window, the score or the command."""
    if isinstance(record, Window):
        return pb.InboxRecord(window=_window_message(record)).SerializeToString()
    if isinstance(record, Command):
        return pb.InboxRecord(command=_command_message(record)).SerializeToString()
    return pb.InboxRecord(score=score_message(record)).SerializeToString()


def decode_inbox_record(payload: bytes) -> InboxRecord:
    """The inverse of `encode_inbox_record`."""
    message = parsed_message(pb.InboxRecord(), payload)
    kind = message.WhichOneof("record")
    if kind == "window":
        return _window(message.window)
    if kind == "score":
        return score_record(message.score)
    if kind == "command":
        return _command(message.command)
    raise ValueError("InboxRecord holds neither a window nor a score nor a command")


def answered_request(payload: bytes) -> tuple[type[WindowRequest | RewardRequest], str, int] | None:
    """The request that an inbox record claims to answer: kind, rollout, and window index or attempt.

    The record need not be sound. None where its bytes do not say.
    """
    message = pb.InboxRecord()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        return None
    if message.HasField("window"):
        return WindowRequest, message.window.rollout_id, message.window.window_index
    if message.HasField("score"):
        return RewardRequest, message.score.rollout_id, message.score.attempt
    return None


def _window_message(window: Window) -> pb.Window:
    return pb.Window(
        rollout_id=window.rollout_id,
        window_index=window.window_index,
        tokens=_to_bytes(window.tokens),
        logprobs=_to_bytes(window.logprobs),
        version_spans=[
            pb.VersionSpan(
                policy_version=span.policy_version, num_tokens=span.num_tokens, cache_version=span.cache_version
            )
            for span in window.version_spans
        ],
        finish_reason=pb.FinishReason.ValueType(window.finish_reason),
        generator=window.generator,
        slot=window.slot,
        started_at=window.started_at,
        ended_at=window.ended_at,
        error=window.error,
        is_evaluation=window.is_evaluation,
        sampled_mask=window.sampled_mask,
    )


def _span(message: pb.VersionSpan) -> VersionSpan:
    cache_version = message.cache_version if message.HasField("cache_version") else None
    return VersionSpan(message.policy_version, message.num_tokens, cache_version)


def _window(message: pb.Window) -> Window:
    return Window(
        rollout_id=message.rollout_id,
        window_index=message.window_index,
        tokens=_from_bytes(tokens(), message.tokens, "tokens"),
        logprobs=_from_bytes(logprobs(), message.logprobs, "logprobs"),
        version_spans=tuple(map(_span, message.version_spans)),
        finish_reason=FinishReason(message.finish_reason),
        generator=message.generator,
        slot=message.slot,
        started_at=message.started_at,
        ended_at=message.ended_at,
        error=message.error,
        is_evaluation=message.is_evaluation,
        sampled_mask=message.sampled_mask,
    )


def score_message(score: Score) -> pb.Score:
    """The message, for calls that carry it inside of others."""
    return pb.Score(
        rollout_id=score.rollout_id,
        attempt=score.attempt,
        status=pb.ScoreStatus.ValueType(score.status),
        score=score.score,
        components=score.components,
        function=score.function,
        error=score.error,
        duration_seconds=score.duration_seconds,
        is_evaluation=score.is_evaluation,
        details=score.details,
        answer=score.answer,
    )


def score_record(message: pb.Score) -> Score:
    """The record of a message."""
    return Score(
        rollout_id=message.rollout_id,
        attempt=message.attempt,
        status=ScoreStatus(message.status),
        score=message.score if message.HasField("score") else None,
        components=dict(message.components),
        function=message.function,
        error=message.error,
        duration_seconds=message.duration_seconds,
        is_evaluation=message.is_evaluation,
        details=message.details,
        answer=message.answer,
    )


def _command_message(command: Command) -> pb.Command:
    return pb.Command(
        command_id=command.command_id,
        action=pb.CommandAction.ValueType(command.action),
        arguments=command.arguments,
        issued_at=command.issued_at,
        issued_by=command.issued_by,
    )


def _command(message: pb.Command) -> Command:
    return Command(
        command_id=message.command_id,
        action=Action(message.action),
        arguments=dict(message.arguments),
        issued_at=message.issued_at,
        issued_by=message.issued_by,
    )


def parsed_message(message: AnyMessage, payload: bytes) -> AnyMessage:
    """The message, filled from the payload."""
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise ValueError(f"{len(payload)} bytes are no {message.DESCRIPTOR.full_name}: {error}") from error
    return message


def _to_bytes(values: "array[int] | array[float]") -> bytes:
    """The elements laid end to end, little-endian."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _from_bytes(empty: "array[Number]", data: bytes, field: str) -> "array[Number]":
    """The empty array, filled from little-endian bytes."""
    if len(data) % empty.itemsize:
        raise ValueError(f"{field} has {len(data)} bytes; expected a multiple of {empty.itemsize}")
    empty.frombytes(data)
    if sys.byteorder == "big":
        empty.byteswap()
    return empty
