"""One connection between rank 0 and another rank: messages and a heartbeat in both directions, after a handshake.

A message on the wire: the lengths of its two parts (4 and 8 bytes, big-endian), a JSON object, and raw bytes.

    rank 0 -> rank: a nonce   rank -> rank 0: a nonce, what it is, and a proof   rank 0 -> rank: a proof, or a refusal

Both proofs are HMACs of the nonces under the run's token, which itself is never sent. Threads of a connection:

* `_write`: consumes messages / waits a heartbeat at most / unblocked by a message or the clock / produces bytes.
* `_read`: consumes bytes / waits for them / unblocked by the other side / produces messages; whatever arrives counts as
  a heartbeat. It ends with the connection, and says so.
"""

import hmac
import json
import logging
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
HANDSHAKE_SECONDS = 20.0
LENGTHS = struct.Struct(">IQ")
MAX_FIELDS_BYTES = 2**28
MAX_BODY_BYTES = 2**40
MAX_HANDSHAKE_BYTES = 2**18
MAX_UNSENT = 64  # messages; rank 0 waits for each call, so there are one or two
CHUNK_BYTES = 2**20
CLOSING_SECONDS = 5.0
HEARTBEAT = "heartbeat"


class ChannelError(Exception):
    """The other side is not who it should be, or sends what is no message."""


class RefusedRankError(Exception):
    """Rank 0 refuses this rank; the text says why."""


@dataclass(frozen=True, slots=True)
class RankMessage:
    """A kind, JSON values, and the bytes of arrays."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def encoded(self) -> bytes:
        """All but the body."""
        text = json.dumps({"kind": self.kind, "fields": self.fields}).encode()
        return LENGTHS.pack(len(text), len(self.body)) + text


class Connection:
    """With another rank, whose proof was accepted."""

    def __init__(
        self,
        opened: socket.socket,
        *,
        take: Callable[[RankMessage], None],
        on_end: Callable[[str], None],
        beat: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`take` is called with each message but heartbeats, `on_end` with why there are no more, unless `close` was.

        `beat`: what a heartbeat says.
        """
        self._socket, self._clock = opened, clock
        self._take, self._on_end, self._beat = take, on_end, beat
        self._unsent: queue.Queue[RankMessage | None] = queue.Queue(MAX_UNSENT)
        self._is_closing = False
        self.heard_at = clock()
        self.newest_beat: Mapping[str, Any] = {}
        opened.settimeout(None)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._write, self._read)]

    def start(self) -> None:
        """Begin to send and to receive."""
        for thread in self._threads:
            thread.start()

    def send(self, message: RankMessage) -> None:
        """Soon; the messages arrive in this order."""
        self._unsent.put(message)

    def close(self) -> None:
        """Send what is left, and end."""
        self._is_closing = True
        self._unsent.put(None)
        self._threads[0].join(CLOSING_SECONDS)
        self._socket.close()

    def _write(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._socket.sendall(message.encoded())
                self._socket.sendall(message.body)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            logger.debug("nothing more is sent: %s", error)  # the reader finds the connection ended, too

    def _next(self) -> RankMessage | None:
        try:
            return self._unsent.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            return RankMessage(HEARTBEAT, self._beat())

    def _read(self) -> None:
        try:
            while True:
                message = receive(self._socket, on_bytes=self._note_bytes)
                if message.kind == HEARTBEAT:
                    self.newest_beat = message.fields
                else:
                    self._take(message)
        except (OSError, ChannelError) as error:
            if not self._is_closing:
                self._on_end(str(error))

    def _note_bytes(self) -> None:
        self.heard_at = self._clock()


def receive(
    opened: socket.socket,
    *,
    on_bytes: Callable[[], None] = lambda: None,
    max_fields: int = MAX_FIELDS_BYTES,
    max_body: int = MAX_BODY_BYTES,
) -> RankMessage:
    """The next message. Raises `ChannelError`, or OSError when there is none."""
    num_fields, num_body = LENGTHS.unpack(_exactly(opened, LENGTHS.size, on_bytes))
    if num_fields > max_fields or num_body > max_body:
        raise ChannelError(f"a message of {num_fields} and {num_body} bytes; expected at most {max_fields}, {max_body}")
    text, body = _exactly(opened, num_fields, on_bytes), _exactly(opened, num_body, on_bytes)
    try:
        found = json.loads(text)
        kind, fields = found["kind"], found["fields"]
    except (ValueError, TypeError, KeyError):
        raise ChannelError("bytes that are no message; expected a JSON object with kind and fields") from None
    if not (isinstance(kind, str) and isinstance(fields, dict)):
        raise ChannelError("a message without a text as its kind and a table as its fields")
    return RankMessage(kind, fields, body)


def _exactly(opened: socket.socket, count: int, on_bytes: Callable[[], None]) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = opened.recv(min(CHUNK_BYTES, count - len(parts)))
        if not part:
            raise ConnectionResetError("the connection has ended")
        on_bytes()
        parts += part
    return bytes(parts)


def present_oneself(opened: socket.socket, token: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """A rank's side of the handshake: what rank 0 says of itself.

    Raises `RefusedRankError`, `ChannelError` or OSError.
    """
    opened.settimeout(HANDSHAKE_SECONDS)
    theirs, ours = str(_handshake(opened).fields.get("nonce")), secrets.token_hex(16)
    said = {"nonce": ours, "own": own, "proof": _proof(token, "rank", theirs, ours, json.dumps(own))}
    opened.sendall(RankMessage("rank", said).encoded())
    answer = _handshake(opened)
    fields = answer.fields
    if answer.kind == "refused":
        raise RefusedRankError(str(fields.get("text")))
    if not hmac.compare_digest(str(fields.get("proof")), _proof(token, "rank 0", theirs, ours)):
        raise ChannelError("rank 0 does not know this run's token; expected the learner of this run")
    return fields


def examine(
    opened: socket.socket, token: str, refuse: Callable[[Mapping[str, Any]], str], own: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Rank 0's side: what the other one says of itself. Raises `ChannelError` or OSError, and where `refuse` finds a
    reason, which is sent, `RefusedRankError`.
    """
    opened.settimeout(HANDSHAKE_SECONDS)
    ours = secrets.token_hex(16)
    opened.sendall(RankMessage("rank 0", {"nonce": ours}).encoded())
    said = _handshake(opened).fields
    theirs, other = str(said.get("nonce")), said.get("own")
    expected = _proof(token, "rank", ours, theirs, json.dumps(other))
    if not isinstance(other, dict) or not hmac.compare_digest(str(said.get("proof")), expected):
        raise ChannelError("a rank that does not know this run's token")
    if reason := refuse(other):
        opened.sendall(RankMessage("refused", {"text": reason}).encoded())
        raise RefusedRankError(reason)
    opened.sendall(RankMessage("accepted", {**own, "proof": _proof(token, "rank 0", ours, theirs)}).encoded())
    return other


def _handshake(opened: socket.socket) -> RankMessage:
    return receive(opened, max_fields=MAX_HANDSHAKE_BYTES, max_body=0)


def _proof(token: str, *parts: str) -> str:
    return hmac.new(token.encode(), json.dumps(parts).encode(), "sha256").hexdigest()
