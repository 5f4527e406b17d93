"""Calls with and without the shared token, on a real gRPC server with every kind of method."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.process import grpc_server
from tppo.process.grpc_server import SERVER_OPTIONS
from tppo.security.authentication import (
    Token,
    call_metadata,
    is_loopback,
    require_token_beyond_loopback,
    server_interceptors,
)
from tppo.security.rotating_token import GRACE_SECONDS, RotatingToken

TOKEN = "correct horse"


async def echo(request: bytes, _: Any) -> bytes:
    return request


async def repeat(request: bytes, _: Any) -> AsyncIterator[bytes]:
    yield request


async def join(requests: AsyncIterator[bytes], _: Any) -> bytes:
    return b"".join([request async for request in requests])


async def mirror(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


METHODS: dict[str, Any] = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Mirror": grpc.stream_stream_rpc_method_handler(mirror),
}


@asynccontextmanager
async def channel_to_server(token: Token) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=server_interceptors(token))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", METHODS),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def parts() -> AsyncIterator[bytes]:
    yield b"he"
    yield b"llo"


async def call(channel: Any, method: str, token: str) -> bytes:
    """What the method answers, whatever its kind, joined."""
    path = f"/test.Echo/{method}"
    options: dict[str, Any] = {"metadata": call_metadata(token), "timeout": DEADLINE_SECONDS}
    match method:
        case "Echo":
            return bytes(await channel.unary_unary(path)(b"hello", **options))
        case "Repeat":
            return b"".join([part async for part in channel.unary_stream(path)(b"hello", **options)])
        case "Join":
            return bytes(await channel.stream_unary(path)(parts(), **options))
        case _:
            return b"".join([part async for part in channel.stream_stream(path)(parts(), **options)])


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_with_the_token_is_answered(method: str) -> None:
    async with channel_to_server(TOKEN) as channel:
        assert await call(channel, method, TOKEN) == b"hello"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN.upper()])
@pytest.mark.parametrize("method", ["Echo", "Repeat"])
async def test_a_call_without_the_right_token_is_refused(method: str, token: str) -> None:
    async with channel_to_server(TOKEN) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method, token)

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert TOKEN not in str(caught.value.details())


@pytest.mark.parametrize("method", ["Join", "Mirror"])
async def test_a_stream_without_the_right_token_is_ended(method: str) -> None:
    async with channel_to_server(TOKEN) as channel:
        # Which status the caller sees depends on whether it was still sending when the stream was cut.
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, method, "wrong")


async def test_a_token_is_replaced_while_a_server_runs_and_the_former_one_ends_after_its_grace(tmp_path: Path) -> None:
    file, now = tmp_path / "token", [1000.0]
    write_at(file, "former", now[0])
    token = RotatingToken("former", file, lambda: file.read_text().strip(), clock=lambda: now[0])
    async with channel_to_server(token) as channel:
        assert await call(channel, "Echo", "former") == b"hello"

        now[0] += 60
        write_at(file, "newest", now[0])
        now[0] += 2
        for accepted in ("former", "newest", str(token)):
            assert await call(channel, "Echo", accepted) == b"hello"

        now[0] += GRACE_SECONDS
        assert await call(channel, "Echo", "newest") == b"hello"
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await call(channel, "Echo", "former")


def write_at(file: Path, token: str, seconds: float) -> None:
    file.write_text(f"{token}\n")
    os.utime(file, (seconds, seconds))


async def test_a_grpc_server_holds_a_bounded_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [(name, 4 if name == "grpc.max_allowed_incoming_connections" else value) for name, value in SERVER_OPTIONS]
    monkeypatch.setattr(grpc_server, "SERVER_OPTIONS", few)
    server, port = await grpc_server.start_server("any", lambda server: None, host="127.0.0.1", port=0)
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    try:
        begun = await asyncio.gather(*(first_bytes(reader) for reader, _ in connections))
    finally:
        for _, writer in connections:
            writer.close()
        await server.stop(0)

    assert (few != list(SERVER_OPTIONS), sum(map(bool, begun))) == (True, 4)


async def first_bytes(reader: asyncio.StreamReader) -> bytes:
    """The settings with which a server greets; none from a connection that it closes."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await reader.read(9)
    except ConnectionResetError:
        return b""


async def test_health_needs_no_token() -> None:
    async with channel_to_server(TOKEN) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS
        )

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_server_without_a_token_answers_everybody() -> None:
    async with channel_to_server("") as channel:
        assert await call(channel, "Echo", "") == b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    require_token_beyond_loopback(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.7", "generation", "localhost.example.org"])
def test_any_other_address_needs_a_token(host: str) -> None:
    require_token_beyond_loopback(host, TOKEN)
    with pytest.raises(ConfigError, match=r"TPPO_TOKEN"):
        require_token_beyond_loopback(host, "")
