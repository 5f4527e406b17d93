import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tppo import codec
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

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TOKENS = st.lists(INT32, max_size=40).map(tokens)

WINDOW_REQUESTS = st.builds(
    WindowRequest,
    rollout_id=st.text(),
    window_index=INT32,
    prompt_tokens=TOKENS,
    response_tokens=TOKENS,
    max_new_tokens=INT32,
    stop_token_ids=st.lists(INT32, max_size=5).map(tuple),
    temperature=FLOATS,
    seed=st.integers(0, 2**64 - 1),
    min_policy_version=INT64,
    is_evaluation=st.booleans(),
)
REWARD_REQUESTS = st.builds(
    RewardRequest,
    rollout_id=st.text(),
    attempt=INT32,
    data_source=st.text(),
    prompt=st.text(),
    response=st.text(),
    ground_truth=st.text(),
    extra_info=st.text(),
    num_response_tokens=INT32,
    is_evaluation=st.booleans(),
    finish_reason=st.sampled_from([None, FinishReason.STOP, FinishReason.LENGTH]),
    num_not_sampled_tokens=INT32,
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    spans = draw(st.lists(st.builds(VersionSpan, INT64, st.integers(0, 8), st.none() | INT64), max_size=4))
    num_tokens = sum(span.num_tokens for span in spans)
    return Window(
        rollout_id=draw(st.text()),
        window_index=draw(INT32),
        tokens=tokens(draw(st.lists(INT32, min_size=num_tokens, max_size=num_tokens))),
        logprobs=logprobs(
            draw(st.lists(st.floats(width=32, allow_nan=False), min_size=num_tokens, max_size=num_tokens))
        ),
        version_spans=tuple(spans),
        finish_reason=draw(st.sampled_from(FinishReason)),
        generator=draw(st.text()),
        slot=draw(INT32),
        started_at=draw(FLOATS),
        ended_at=draw(FLOATS),
        error=draw(st.text()),
        is_evaluation=draw(st.booleans()),
        sampled_mask=bytes(draw(st.lists(st.integers(0, 1), min_size=num_tokens, max_size=num_tokens) | st.just([]))),
    )


@st.composite
def scores(draw: st.DrawFn) -> Score:
    status = draw(st.sampled_from(ScoreStatus))
    return Score(
        rollout_id=draw(st.text()),
        attempt=draw(INT32),
        status=status,
        score=draw(FLOATS) if status is ScoreStatus.SCORED else None,
        components=draw(st.dictionaries(st.text(), FLOATS, max_size=3)),
        function=draw(st.text()),
        error=draw(st.text()),
        duration_seconds=draw(FLOATS),
        is_evaluation=draw(st.booleans()),
        answer=draw(st.text()),
    )


def a_window() -> Window:
    return Window(
        rollout_id="0-7-1",
        window_index=2,
        tokens=tokens([1, -1]),
        logprobs=logprobs([-0.5, -2.0]),
        version_spans=(VersionSpan(policy_version=3, num_tokens=2),),
        finish_reason=FinishReason.STOP,
    )


@given(WINDOW_REQUESTS)
def test_a_window_request_survives_the_wire(request: WindowRequest) -> None:
    assert codec.decode_window_request(codec.encode_window_request(request)) == request


@given(REWARD_REQUESTS)
def test_a_reward_request_survives_the_wire(request: RewardRequest) -> None:
    assert codec.decode_reward_request(codec.encode_reward_request(request)) == request


COMMANDS = st.builds(
    Command, st.text(), st.sampled_from(Action), st.dictionaries(st.text(), st.text()), st.floats(0, 1e10), st.text()
)


@given(windows() | scores() | COMMANDS)
def test_an_inbox_record_survives_the_wire(record: InboxRecord) -> None:
    assert codec.decode_inbox_record(codec.encode_inbox_record(record)) == record


def test_token_arrays_cross_as_little_endian_int32_and_float32() -> None:
    message = pb.InboxRecord.FromString(codec.encode_inbox_record(a_window())).window

    assert message.tokens == bytes.fromhex("01000000 ffffffff")
    assert message.logprobs == struct.pack("<ff", -0.5, -2.0)


def test_a_score_of_zero_differs_from_no_score() -> None:
    zero = Score("r", 0, ScoreStatus.SCORED, score=0.0)
    failed = Score("r", 0, ScoreStatus.FAILED, error="worker died")

    decoded_zero, decoded_failed = (codec.decode_inbox_record(codec.encode_inbox_record(s)) for s in (zero, failed))

    assert isinstance(decoded_zero, Score)
    assert decoded_zero.score == 0.0
    assert isinstance(decoded_failed, Score)
    assert decoded_failed.score is None


def test_a_nan_score_survives_the_wire() -> None:
    decoded = codec.decode_inbox_record(codec.encode_inbox_record(Score("r", 0, ScoreStatus.SCORED, score=math.nan)))

    assert isinstance(decoded, Score)
    assert decoded.score is not None
    assert math.isnan(decoded.score)


def test_bytes_that_are_no_message_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"tppo\.v1\.WindowRequest"):
        codec.decode_window_request(b"\xff\xff\xff")


def test_half_a_token_is_refused_by_name() -> None:
    payload = pb.WindowRequest(rollout_id="r", prompt_tokens=b"\x01\x00\x00").SerializeToString()

    with pytest.raises(ValueError, match="prompt_tokens has 3 bytes; expected a multiple of 4"):
        codec.decode_window_request(payload)


def test_an_inbox_record_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a window nor a score"):
        codec.decode_inbox_record(b"")


def test_a_window_without_a_finish_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="FinishReason"):
        codec.decode_inbox_record(pb.InboxRecord(window=pb.Window(rollout_id="r")).SerializeToString())


def test_a_window_with_a_logprob_too_few_is_refused() -> None:
    window = pb.Window(rollout_id="r", tokens=bytes(8), logprobs=bytes(4), finish_reason=pb.FINISH_REASON_LENGTH)

    with pytest.raises(ValueError, match="2 tokens, 1 log-probs"):
        codec.decode_inbox_record(pb.InboxRecord(window=window).SerializeToString())


def test_a_window_of_an_earlier_release_has_sampled_every_token() -> None:
    message = pb.InboxRecord.FromString(codec.encode_inbox_record(a_window()))
    message.window.ClearField("sampled_mask")

    window = codec.decode_inbox_record(message.SerializeToString())

    assert isinstance(window, Window)
    assert (window.is_sampled(), window.num_not_sampled) == (b"\1\1", 0)


@pytest.mark.parametrize("mask", [b"\1", b"\1\1\1", b"\1\2"])
def test_a_mask_that_does_not_fit_its_tokens_is_refused(mask: bytes) -> None:
    message = pb.InboxRecord.FromString(codec.encode_inbox_record(a_window()))
    message.window.sampled_mask = mask

    with pytest.raises(ValueError, match=r"window 2 of 0-7-1: a sampled_mask of . bytes .* expected a 0 or 1 for each"):
        codec.decode_inbox_record(message.SerializeToString())
