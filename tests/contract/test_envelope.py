"""Who may write which record, and how the reader knows."""

import hashlib
import hmac

import pytest

from tests.learner.builders import a_score, a_window
from tppo import codec
from tppo.rollout import Action, Command, InboxRecord, RewardRequest, Score, Window, WindowRequest
from tppo.security.envelope import PLAIN, SealedRecords, Sealer, Writer, is_sealed, writer_of
from tppo.security.record_keys import sealed_records

RECORDS = sealed_records(["old", "new"])
WINDOW, SCORE = a_window("0-1-0"), a_score("0-1-0")
OF_ROLES: dict[Writer, InboxRecord] = {
    Writer.GENERATION: WINDOW,
    Writer.REWARD: SCORE,
    Writer.OPERATOR: Command("1", Action.STOP_AFTER_STEP),
    Writer.LEARNER: Command("2", Action.RECONFIGURE),
}


def sealed(role: Writer, record: InboxRecord, records: SealedRecords = RECORDS) -> bytes:
    return records.sealer(role).seal(codec.encode_inbox_record(record))


@pytest.mark.parametrize("role", Writer)
def test_a_record_passes_when_its_own_role_has_sealed_it_and_no_other(role: Writer) -> None:
    record = OF_ROLES[role]

    assert writer_of(record) is role
    assert RECORDS.record(sealed(role, record)) == record
    assert RECORDS.payload(record) == sealed(role, record)
    for other in set(Writer) - {role}:
        with pytest.raises(ValueError, match=rf"that {other} has sealed; expected {role}"):
            RECORDS.record(sealed(other, record))


@pytest.mark.parametrize("action", set(Action) - {Action.RECONFIGURE})
def test_every_command_of_an_operator_is_the_operators(action: Action) -> None:
    assert writer_of(Command("1", action)) is Writer.OPERATOR


def test_the_bytes_are_what_the_documents_say() -> None:
    body = codec.encode_inbox_record(SCORE)

    payload = Sealer(Writer.REWARD, "key").seal(body)

    mac = hmac.new(b"key", b"\x00\x01\x02" + body, hashlib.sha256).digest()
    assert payload == b"\x00\x01\x02" + mac + body
    assert (is_sealed(payload), is_sealed(body), is_sealed(b"")) == (True, False, False)


@pytest.mark.parametrize("at", [2, 3, 20, 34, 35, -1])
def test_a_record_of_which_any_byte_was_changed_is_refused(at: int) -> None:
    payload = bytearray(sealed(Writer.GENERATION, WINDOW))
    payload[at] ^= 1

    with pytest.raises(ValueError, match=r"no key of the role|is not a valid Writer"):
        RECORDS.record(bytes(payload))


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (b"", "a record of 0 bytes without an envelope; expected one that its writer's role has sealed"),
        (codec.encode_inbox_record(WINDOW), "without an envelope"),
        (sealed(Writer.REWARD, SCORE)[:34], "a record of 34 bytes without an envelope"),
        (b"\0\7" + sealed(Writer.REWARD, SCORE)[2:], "a record of format 7; expected format 1"),
        (b"\0\1\x09" + sealed(Writer.REWARD, SCORE)[3:], "9 is not a valid Writer"),
        (Sealer(Writer.REWARD, "none").seal(b""), "a record that no key of the role reward has sealed"),
        (RECORDS.sealer(Writer.REWARD).seal(b"\xff"), "1 bytes are no tppo.v1.InboxRecord"),
    ],
)
def test_what_is_no_sealed_record_is_refused_with_its_cause(payload: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        RECORDS.record(payload)


def test_records_of_an_earlier_secret_of_the_run_still_count() -> None:
    assert RECORDS.record(sealed(Writer.REWARD, SCORE, sealed_records(["old"]))) == SCORE
    with pytest.raises(ValueError, match="no key"):
        sealed_records(["new"]).record(sealed(Writer.REWARD, SCORE, sealed_records(["old"])))


def test_a_forged_record_answers_no_request_so_that_nobody_parks_anothers_rollouts() -> None:
    assert RECORDS.answered(sealed(Writer.GENERATION, WINDOW)) == (WindowRequest, "0-1-0", 0)
    assert RECORDS.answered(sealed(Writer.REWARD, SCORE)) == (RewardRequest, "0-1-0", 0)
    forged = [sealed(Writer.GENERATION, SCORE), sealed(Writer.REWARD, WINDOW), codec.encode_inbox_record(SCORE)]
    assert [RECORDS.answered(one) for one in forged] == [None, None, None]


def test_records_without_an_envelope_are_those_of_the_codec() -> None:
    for record in (WINDOW, SCORE):
        assert isinstance(PLAIN.record(PLAIN.payload(record)), Window | Score)
    with pytest.raises(ValueError, match=r"are no tppo\.v1\.InboxRecord"):
        PLAIN.record(sealed(Writer.REWARD, SCORE))
