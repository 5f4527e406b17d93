"""Calls with and without the shared token, on a real gRPC server with every kind of method."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.security.authentication import call_metadata, is_loopback, require_token_beyond_loopback, server_interceptors

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
async def channel_to_server(token: str) -> AsyncIterator[grpc.aio.Channel]:
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
