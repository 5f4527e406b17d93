"""The envelope of a record in a run's inbox: which role wrote it, proved by that role's key.

    byte 0         0, with which no protobuf message begins
    byte 1         the format of the record
    byte 2         the role
    bytes 3 to 34  HMAC-SHA256, by the role's key, of the three bytes and the record
    the rest       the record, a tppo.v1.InboxRecord

The inbox is one stream, since its order decides what a step trains. So whoever may append to it could append anything;
what counts is what the writer's role may write. The verdict depends on the bytes and the run's keys alone: a restarted
learner, a replay and a rollback come to the same one.
"""

import hmac
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Protocol

from tppo import codec
from tppo.rollout import Action, Command, InboxRecord, RewardRequest, Score, Window, WindowRequest

MARK = 0
FORMAT = 1
PREFIX_BYTES = 3
MAC_BYTES = 32
EXPECTED = "expected one that its writer's role has sealed"
Answered = tuple[type[WindowRequest | RewardRequest], str, int]


class Writer(IntEnum):
    """Who writes into the inbox; the number stands in the envelope and is never reused."""

    GENERATION = 1
    REWARD = 2
    OPERATOR = 3  # by the dashboard, or by `tppo run`
    LEARNER = 4

    def __str__(self) -> str:
        return self.name.lower()

    @property
    def variable(self) -> str:
        """The environment variable that holds the role's key; with `_FILE` behind it, the path of a file that does."""
        return f"TPPO_{self.name}_RECORD_KEY"


def writer_of(record: InboxRecord) -> Writer:
    """The one role that may write such a record."""
    if isinstance(record, Window):
        return Writer.GENERATION
    if isinstance(record, Score):
        return Writer.REWARD
    return Writer.LEARNER if record.action is Action.RECONFIGURE else Writer.OPERATOR


class Records(Protocol):
    """How the payloads of an inbox are read."""

    def record(self, payload: bytes) -> InboxRecord:
        """What the payload holds. Raises ValueError, also where its writer may not write that."""

    def answered(self, payload: bytes) -> Answered | None:
        """The request that it claims to answer, sound or not; None where it does not say, or may not."""

    def payload(self, record: InboxRecord) -> bytes:
        """The inverse of `record`."""


class PlainRecords:
    """Format 0: no envelope. Of archives that were begun without one, and of streams inside one process."""

    def record(self, payload: bytes) -> InboxRecord:
        return codec.decode_inbox_record(payload)

    def answered(self, payload: bytes) -> Answered | None:
        return codec.answered_request(payload)

    def payload(self, record: InboxRecord) -> bytes:
        return codec.encode_inbox_record(record)


PLAIN = PlainRecords()


class Sealer:
    """Puts what one role writes into envelopes."""

    def __init__(self, role: Writer, key: str) -> None:
        self._prefix, self._key = bytes((MARK, FORMAT, role)), key.encode()

    def seal(self, record: bytes) -> bytes:
        """The record in its envelope."""
        return self._prefix + _mac(self._key, self._prefix + record) + record


class SealedRecords:
    """Format 1: each record in an envelope of its writer's role."""

    def __init__(self, keys: Mapping[Writer, Sequence[str]]) -> None:
        """`keys`: of each role, the newest last; with the others it has sealed before."""
        self._keys = {role: [key.encode() for key in ones] for role, ones in keys.items()}
        self._sealers = {role: Sealer(role, ones[-1]) for role, ones in keys.items()}

    def record(self, payload: bytes) -> InboxRecord:
        role, body = self._opened(payload)
        record = codec.decode_inbox_record(body)
        if role is not (writer := writer_of(record)):
            raise ValueError(f"{_kind_of(record)} that {role} has sealed; expected {writer}")
        return record

    def answered(self, payload: bytes) -> Answered | None:
        try:
            role, body = self._opened(payload)
        except ValueError:
            return None
        found = codec.answered_request(body)
        if found is None:
            return None
        writer = Writer.GENERATION if found[0] is WindowRequest else Writer.REWARD
        return found if role is writer else None

    def payload(self, record: InboxRecord) -> bytes:
        return self.sealer(writer_of(record)).seal(codec.encode_inbox_record(record))

    def sealer(self, role: Writer) -> Sealer:
        """By the role's newest key."""
        return self._sealers[role]

    def _opened(self, payload: bytes) -> tuple[Writer, bytes]:
        if not is_sealed(payload):
            raise ValueError(f"a record of {len(payload)} bytes without an envelope; {EXPECTED}")
        if payload[1] != FORMAT:
            raise ValueError(f"a record of format {payload[1]}; expected format {FORMAT}")
        role = Writer(payload[2])
        begin = PREFIX_BYTES + MAC_BYTES
        mac, body = payload[PREFIX_BYTES:begin], payload[begin:]
        signed = payload[:PREFIX_BYTES] + body
        if not any(hmac.compare_digest(mac, _mac(key, signed)) for key in self._keys[role]):
            raise ValueError(f"a record that no key of the role {role} has sealed; {EXPECTED}")
        return role, body


def is_sealed(payload: bytes) -> bool:
    """Whether it is in an envelope, of whatever format and whoever's."""
    return payload[:1] == bytes((MARK,)) and len(payload) >= PREFIX_BYTES + MAC_BYTES


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _kind_of(record: InboxRecord) -> str:
    return f"a command {record.action.name}" if isinstance(record, Command) else f"a {type(record).__name__.lower()}"
