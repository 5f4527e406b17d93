"""Messages between the service and its workers: 4 bytes of length, big-endian, then JSON. No pickle on any wire."""

import asyncio
import json
import socket
from typing import Any

Frame = dict[str, Any]
HEADER_BYTES = 4
MAX_FRAME_BYTES = 256 * 2**20  # a response of megabytes passes; a corrupt header does not allocate the machine


def encoded(frame: Frame) -> bytes:
    body = json.dumps(frame).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"message of {len(body)} bytes; expected at most {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def receive(connection: socket.socket) -> Frame | None:
    """The next frame; None when the other side has closed."""
    header = _exactly(connection, HEADER_BYTES)
    if header is None:
        return None
    body = _exactly(connection, _checked_length(header))
    return None if body is None else json.loads(body)


async def read(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises IncompleteReadError when the other side has closed."""
    length = _checked_length(await reader.readexactly(HEADER_BYTES))
    frame: Frame = json.loads(await reader.readexactly(length))
    return frame


def _checked_length(header: bytes) -> int:
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"message of {length} bytes announced; expected at most {MAX_FRAME_BYTES}")
    return length


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    received = bytearray()
    while len(received) < length:
        part = connection.recv(min(length - len(received), 2**20))
        if not part:
            return None
        received += part
    return bytes(received)
