"""Which records of the inbox count, by their own bytes and the run's constants."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest

from learner.rollouts.border import FEW, Border, RejectedError, RolloutIds
from learner.rollouts.prompts import PromptOrder
from tests.learner.builders import a_failed_window, a_score, a_window, ending
from tppo import codec
from tppo.rollout import Action, Command, FinishReason, InboxRecord, VersionSpan, logprobs, tokens
from tppo.v1 import rollout_pb2 as pb

BORDER = Border(RolloutIds(PromptOrder(10, 2, 0, shuffle=True), 3), 24, max_response_length=8, window_length=5)
WINDOW = a_window("0-9-1")


@pytest.mark.parametrize(
    "record",
    [
        WINDOW,
        a_window("7-0-0", 3, policy_version=2**31 - 1),
        a_window("eval-40-2", num_tokens=8),
        a_window("0-0-0", num_tokens=0),
        a_failed_window("0-0-0"),
        ending(WINDOW, FinishReason.CUT),
        ending(WINDOW, FinishReason.TOOL, not_sampled=[1, 3]),
        replace(WINDOW, logprobs=logprobs([0.0, -1e-30, -50.0, -1e30])),
        a_score("0-0-0", -3.5),
        Command("c" * 200, Action.SET, {"key": '"actor.lr"', "value": "1e-3"}, 1.5, "somebody"),
    ],
)
def test_a_record_of_any_version_and_epoch_is_admitted(record: InboxRecord) -> None:
    assert BORDER.admit(codec.encode_inbox_record(record)) == record


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (replace(WINDOW, tokens=tokens([10, 10**6, 11, 12])), "token 1000000; expected one of 0 to 23"),
        (replace(WINDOW, tokens=tokens([10, 24, 11, 12])), "token 24"),
        (replace(WINDOW, tokens=tokens([10, -1, 11, 12])), "token -1"),
        (replace(WINDOW, version_spans=(VersionSpan(2**31, 4),)), "policy version 2147483648"),
        (replace(WINDOW, version_spans=(VersionSpan(-1, 4),)), "policy version -1"),
        (replace(WINDOW, version_spans=(VersionSpan(3, 4, cache_version=-2),)), "on the KV cache of -2"),
        (replace(WINDOW, version_spans=(VersionSpan(0, 5), VersionSpan(0, -1))), "-1 tokens"),
        (replace(WINDOW, logprobs=logprobs([-1, math.nan, -1, -1])), "log-prob nan"),
        (replace(WINDOW, logprobs=logprobs([-1, 0.5, -1, -1])), "log-prob 0.5"),
        (replace(WINDOW, logprobs=logprobs([-1, -math.inf, -1, -1])), "log-prob -inf"),
        (
            ending(a_window("0-0-0", num_tokens=0), FinishReason.CUT),
            "handed over without a token; expected one at least",
        ),
        (replace(WINDOW, sampled_mask=b"\1\0\1\1"), "a log-prob of a token that was not sampled; expected 0 for it"),
        (a_window("0-0-0", num_tokens=6), "6 tokens; expected at most 5"),
        (a_window("eval-40-2", num_tokens=9), "9 tokens; expected at most 8"),
        (a_window("0-0-0", -1), "an index of 0 or more"),
        (a_window("0-10-0"), "'0-10-0' is not of this run"),
        (a_window("0-0-2"), "'0-0-2' is not of this run"),
        (a_window("00-0-0"), "'00-0-0' is not of this run"),
        (a_window("eval-1-3"), "'eval-1-3' is not of this run"),
        (a_window("eval-x-1"), "'eval-x-1' is not of this run"),
        (a_window("9" * 5000 + "-0-0"), "'999"),
        (a_window("0-٣-0"), "is not of this run"),
        (a_window("another"), "'another' is not of this run"),
        (a_score("another"), "'another' is not of this run"),
        (a_score("0-0-0", math.nan), "nan; expected a finite number"),
        (a_score("0-0-0", attempt=-1), "an attempt of 0 or more"),
        (Command("", Action.PAUSE), "id of 0 characters; expected 1 to 200"),
        (Command("c" * 201, Action.PAUSE), "id of 201 characters"),
        (Command("c", Action.PAUSE, issued_at=math.nan), "a finite time"),
        (Command("c", Action.SET, {"key": "x" * 2**20}), "expected at most 1048576 characters"),
    ],
)
def test_a_record_outside_the_run_s_constants_is_rejected(record: InboxRecord, cause: str) -> None:
    with pytest.raises(RejectedError, match=cause.replace("(", r"\(")):
        BORDER.admit(codec.encode_inbox_record(record))


@pytest.mark.parametrize("place", [0, FEW, 2 * FEW - 1])
@pytest.mark.parametrize(
    ("token", "logprob", "cause"),
    [
        (23, -1e30, ""),
        (24, -1.0, "token 24; expected one of 0 to 23"),
        (-1, -1.0, "token -1"),
        (2, math.nan, "log-prob nan"),
        (2, 0.5, "log-prob 0.5"),
        (2, math.inf, "log-prob inf"),
        (2, -math.inf, "log-prob -inf"),
    ],
)
def test_one_number_of_a_long_window_decides(place: int, token: int, logprob: float, cause: str) -> None:
    border = replace(BORDER, max_response_length=2 * FEW, window_length=2 * FEW)
    sampled, found = tokens([3]) * (2 * FEW), logprobs([-1.0]) * (2 * FEW)
    sampled[place], found[place] = token, logprob
    window = replace(WINDOW, tokens=sampled, logprobs=found, version_spans=(VersionSpan(0, 2 * FEW),))

    with pytest.raises(RejectedError, match=cause) if cause else nullcontext():
        assert border.admit(codec.encode_inbox_record(window)) == window


@pytest.mark.parametrize(
    ("rollout_id", "num_samples", "is_of_run"),
    [
        ("eval-20-2", 1, True),
        ("eval-20-2-0", 1, False),
        ("eval-20-2", 4, False),
        ("eval-20-2-3", 4, True),
        ("eval-20-2-4", 4, False),
        ("eval-20-3-0", 4, False),
        ("eval-20-2-01", 4, False),
    ],
)
def test_an_evaluation_s_id_names_the_sample_where_there_are_several(
    rollout_id: str, num_samples: int, is_of_run: bool
) -> None:
    ids = RolloutIds(PromptOrder(10, 2, 0, shuffle=True), 3, num_samples)

    assert ids(rollout_id) is is_of_run


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\x00\x9a\x12\x03\xfe\x77\x81\x04\xd5",
        b"",
        pb.InboxRecord(window=pb.Window(rollout_id="0-0-0", tokens=b"123", finish_reason=pb.FINISH_REASON_STOP)),
        pb.InboxRecord(window=pb.Window(rollout_id="0-0-0", tokens=b"1234", finish_reason=pb.FINISH_REASON_STOP)),
    ],
    ids=["random bytes", "nothing", "torn tokens", "tokens without log-probs"],
)
def test_bytes_that_hold_no_record_are_rejected(payload: bytes | pb.InboxRecord) -> None:
    with pytest.raises(RejectedError):
        BORDER.admit(payload if isinstance(payload, bytes) else payload.SerializeToString())


def test_a_rejected_record_names_the_request_of_the_run_that_it_claims_to_answer() -> None:
    torn = pb.Window(rollout_id="0-9-1", window_index=2, tokens=b"123")

    assert answered(replace(WINDOW, tokens=tokens([10, 10**6, 11, 12]))) == ("WindowRequest", "0-9-1", 0)
    assert answered(a_score("0-9-1", math.nan, attempt=3)) == ("RewardRequest", "0-9-1", 3)
    assert answered(pb.InboxRecord(window=torn)) == ("WindowRequest", "0-9-1", 2)
    assert answered(a_window("another")) is None
    assert answered(a_window("0-9-1", -1)) is None
    assert answered(pb.InboxRecord(command=pb.Command(command_id="c"))) is None


def answered(record: InboxRecord | pb.InboxRecord) -> object:
    payload = record.SerializeToString() if isinstance(record, pb.InboxRecord) else codec.encode_inbox_record(record)
    with pytest.raises(RejectedError) as rejected:
        BORDER.admit(payload)
    return rejected.value.answered
