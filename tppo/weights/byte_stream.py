"""Bytes of weights over a plain TCP connection beside a gRPC call, which would copy each of them six times.

A generator listens on a port of its own. Who calls its service, which takes the run's token, is sent the port and a
secret for one connection. Whoever cannot connect goes on by messages of the call. Under mutual TLS there is no such
port: what passes there is to be encrypted.

`ByteStreams.listening` consumes connections / waits for a secret, `SECRET_SECONDS` at most / produces the connection
for whoever waits in `arrival`.
"""

import asyncio
import logging
import os
import secrets
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from tppo.process.cancellation import cancel_all
from tppo.security.tls import TlsFiles
from tppo.weights.memory_file import MemoryFile

SECRET_BYTES = 32
SECRET_SECONDS = 2.0  # for the secret of a new connection
CONNECT_SECONDS = 2.0  # after which the bytes go as messages
STANDSTILL_SECONDS = 15.0  # without a byte
MAX_NEWCOMERS = 16  # connections that have not shown a secret
PIECE_BYTES = 2**20  # fits into a processor's cache
MIN_STREAMED_BYTES = 16 * 2**20  # fewer are sent faster than one connects

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StreamOffer:
    """How to connect, as a call of the service says it."""

    port: int
    secret: bytes


@dataclass(slots=True, weakref_slot=True, eq=False)
class ExpectedStream:
    """A connection that may come, for as long as somebody has this."""

    offer: StreamOffer
    connection: "asyncio.Future[socket.socket]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def arrival(self) -> socket.socket:
        """The connection. Raises TimeoutError."""
        async with asyncio.timeout(CONNECT_SECONDS + SECRET_SECONDS):
            return await self.connection


class ByteStreams:
    """The port of a generator. Without it, which is so until `listening`, nothing is expected."""

    def __init__(self) -> None:
        self._port = 0
        self._expected: weakref.WeakValueDictionary[bytes, ExpectedStream] = weakref.WeakValueDictionary()
        self._newcomers: set[asyncio.Task[None]] = set()

    def expect(self, num_bytes: int) -> ExpectedStream | None:
        """A connection for so many bytes; None where there is none to be had, or it is not worth while."""
        if not self._port or num_bytes < MIN_STREAMED_BYTES:
            return None
        expected = ExpectedStream(StreamOffer(self._port, secrets.token_bytes(SECRET_BYTES)))
        self._expected[expected.offer.secret] = expected
        return expected

    @asynccontextmanager
    async def listening(self, host: str) -> AsyncIterator[None]:
        """Within, others can connect."""
        if TlsFiles.from_environment() is not None:
            yield
            return
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            opened = socket.create_server((host, 0), family=family)
        except OSError as error:
            log.warning("weights come by gRPC alone: cannot listen on another port of %s: %s", host, error)
            yield
            return
        with opened:
            opened.setblocking(False)
            self._port = opened.getsockname()[1]
            accepting = asyncio.create_task(self._accept(opened))
            try:
                yield
            finally:
                self._port = 0
                await cancel_all([accepting, *self._newcomers])

    async def _accept(self, opened: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(opened)
            if len(self._newcomers) >= MAX_NEWCOMERS:
                connection.close()
                continue
            task = asyncio.create_task(self._welcome(connection))
            self._newcomers.add(task)
            task.add_done_callback(self._newcomers.discard)

    async def _welcome(self, connection: socket.socket) -> None:
        expected = None
        try:
            expected = self._expected.pop(await _secret(connection), None)
        except (OSError, TimeoutError) as error:
            log.debug("a connection for weights has shown no secret: %s", error)
        finally:
            if expected is not None and not expected.connection.done():
                expected.connection.set_result(connection)
            else:
                connection.close()


async def _secret(connection: socket.socket) -> bytes:
    found = b""
    connection.setblocking(False)
    async with asyncio.timeout(SECRET_SECONDS):
        while len(found) < SECRET_BYTES:
            part = await asyncio.get_running_loop().sock_recv(connection, SECRET_BYTES - len(found))
            if not part:
                raise ConnectionResetError("it has ended")
            found += part
    return found


async def connected(address: str, offer: StreamOffer) -> socket.socket | None:
    """A connection to the port beside the service at the address; None where there is no way to it."""
    host, loop = address.rpartition(":")[0].strip("[]"), asyncio.get_running_loop()
    connection: socket.socket | None = None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(host, offer.port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, place = found[0]
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)
            await loop.sock_connect(connection, place)
            await loop.sock_sendall(connection, offer.secret)
    except (OSError, TimeoutError) as error:
        log.info("weights go by gRPC alone: no connection to port %d of %s: %s", offer.port, host, error)
        if connection is not None:
            connection.close()
        return None
    return connection


async def in_own_thread(
    connection: socket.socket, work: Callable[[socket.socket], T], *, standstill_seconds: float = STANDSTILL_SECONDS
) -> T:
    """What the work with the connection comes to; it blocks, and where it is cancelled the connection is shut down."""

    def do() -> T:
        with connection:
            connection.settimeout(standstill_seconds)
            return work(connection)

    pool = ThreadPoolExecutor(1, thread_name_prefix="weights")  # others' slow connections hold no thread of this one
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, do)
    finally:
        shut_down(connection)
        pool.shutdown(wait=False)


def shut_down(connection: socket.socket) -> None:
    """Whoever reads or writes there ends; it may be closed already."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def send(connection: socket.socket, file: MemoryFile, begin: int) -> None:
    """The tensors' bytes from there on; the kernel takes them from the file itself. Raises OSError."""
    if not file.path:
        connection.sendall(file.data[begin:])
        return
    with os.fdopen(os.dup(file.number), "rb") as opened:
        first = file.num_header_bytes + begin
        connection.sendfile(opened, first, file.layout.num_bytes - begin)


def receive(connection: socket.socket, num_bytes: int, take: Callable[[memoryview], None]) -> None:
    """As many bytes, or those that come before the connection ends. Raises OSError."""
    buffer = memoryview(bytearray(min(PIECE_BYTES, num_bytes)))
    while num_bytes:
        num_read = _filled(connection, buffer[:num_bytes])
        if not num_read:
            return
        take(buffer[:num_read])
        num_bytes -= num_read


def _filled(connection: socket.socket, buffer: memoryview) -> int:
    num_read = 0
    while num_read < len(buffer):
        count = connection.recv_into(buffer[num_read:])
        if not count:
            break
        num_read += count
    return num_read
