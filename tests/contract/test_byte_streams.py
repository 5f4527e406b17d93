"""Connections beside gRPC calls: who has the secret of one brings bytes over it, and nobody else is in the way."""

import asyncio
import socket
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.support.certificates import certified
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.cancellation import cancel_all
from tppo.weights import MemoryFile, byte_stream
from tppo.weights.byte_stream import ByteStreams, StreamOffer, connected, in_own_thread, receive, send

MANY = byte_stream.MIN_STREAMED_BYTES
HOST = "127.0.0.1"


async def a_file(num_bytes: int) -> MemoryFile:
    tensors = {"w": torch.arange(num_bytes // 4, dtype=torch.int32)}
    return await asyncio.to_thread(MemoryFile.holding, tensors, nonce="n")


async def a_stranger(port: int, secret: bytes) -> None:
    """Connects, and is hung up on."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(secret)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("has_descriptor", [True, False])
async def test_the_bytes_of_a_file_arrive_from_an_offset_on(has_descriptor: bool) -> None:
    file, begin, found = await a_file(5 * 2**20), 1001, bytearray()
    if not has_descriptor:
        file._descriptor = None

    streams = ByteStreams()
    async with streams.listening(HOST):
        expected = streams.expect(MANY)
        assert expected is not None
        sending = await connected(f"{HOST}:1", expected.offer)
        assert sending is not None
        receiving = await expected.arrival()
        size = file.layout.num_bytes - begin
        await asyncio.gather(
            in_own_thread(sending, partial(send, file=file, begin=begin)),
            in_own_thread(receiving, partial(receive, num_bytes=size, take=found.extend)),
        )

    assert found == file.data[begin:]


async def test_who_has_no_secret_or_a_used_one_is_hung_up_on() -> None:
    streams = ByteStreams()
    async with streams.listening(HOST):
        expected = streams.expect(MANY)
        assert expected is not None
        await a_stranger(expected.offer.port, b"x" * 32)
        connection = await connected(f"{HOST}:1", expected.offer)
        assert connection is not None
        arrived = await expected.arrival()
        await a_stranger(expected.offer.port, expected.offer.secret)
        connection.close()
        arrived.close()


async def test_who_says_nothing_is_hung_up_on_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = ByteStreams()
    async with streams.listening(HOST):
        expected = streams.expect(MANY)
        assert expected is not None
        silent = socket.create_connection((HOST, expected.offer.port))
        connection = await connected(f"{HOST}:1", expected.offer)
        assert connection is not None
        for one in (connection, await expected.arrival(), silent):
            one.close()
        monkeypatch.setattr(byte_stream, "SECRET_SECONDS", 0.05)
        await a_stranger(expected.offer.port, b"")


async def test_a_connection_that_nobody_expects_any_more_is_closed() -> None:
    streams = ByteStreams()
    async with streams.listening(HOST):
        expected = streams.expect(MANY)
        assert expected is not None
        offer = expected.offer
        del expected
        await a_stranger(offer.port, offer.secret)


async def test_few_bytes_and_a_port_that_is_not_open_are_no_reason_to_connect() -> None:
    streams = ByteStreams()
    assert streams.expect(MANY) is None
    async with streams.listening(HOST):
        assert streams.expect(MANY - 1) is None
        assert streams.expect(MANY) is not None


async def test_under_mutual_tls_nothing_goes_beside_the_encrypted_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in certified(tmp_path / "ours").items():
        monkeypatch.setenv(name, path)
    streams = ByteStreams()
    async with streams.listening(HOST):
        assert streams.expect(MANY) is None


async def test_where_no_port_can_be_had_bytes_go_by_the_calls(caplog: pytest.LogCaptureFixture) -> None:
    streams = ByteStreams()
    async with streams.listening("203.0.113.1"):  # nobody's address
        assert streams.expect(MANY) is None
    assert "weights come by gRPC alone: cannot listen on another port of 203.0.113.1" in caplog.text


async def test_where_nobody_listens_there_is_no_connection() -> None:
    assert await connected(f"{HOST}:1", StreamOffer(1, b"x" * 32)) is None


async def test_a_cancelled_work_ends_and_its_peer_sees_the_end() -> None:
    one, other = socket.socketpair()
    working = asyncio.create_task(in_own_thread(one, partial(receive, num_bytes=100, take=lambda part: None)))
    await asyncio.sleep(0.01)
    await cancel_all([working])

    other.settimeout(DEADLINE_SECONDS)
    assert await asyncio.to_thread(other.recv, 1) == b""
    other.close()


async def test_a_connection_without_a_byte_for_long_ends() -> None:
    one, other = socket.socketpair()
    with pytest.raises(TimeoutError):
        await in_own_thread(one, partial(receive, num_bytes=1, take=lambda part: None), standstill_seconds=0.05)
    other.close()
