"""What a stranger can make the dashboard hold: connections, unfinished requests and readers of the stream."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Message

from services.dashboard.api.access import Access
from services.dashboard.api.app import create_app
from services.dashboard.live.stream import MAX_READERS, Broadcaster
from tests.dashboard.clients import TOKEN, views_of
from tests.dashboard.run_folders import RunFolderBuilder
from tests.support.waiting import until
from tppo.process import web_server
from tppo.process.cancellation import cancel_all
from tppo.process.web_server import server_settings

REQUEST = b"GET /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
async def port(root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a dashboard that waits half a second for a request and holds four connections."""
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 4)
    views = views_of(root)
    app = create_app(views, Broadcaster(views), access=Access(token=TOKEN), source=None, static=root / "static")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(server_settings(app))
        serving = asyncio.create_task(server._serve([listener]))  # `serve` would take the signals over
        await until(lambda: server.started, "the server")
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def answer_to(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Everything that is sent back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        await cancel_all([sending])
        writer.close()


@pytest.mark.parametrize(
    "begun", [b"", REQUEST, b"POST /api/v1/pause HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"]
)
async def test_a_request_that_is_not_finished_in_time_is_closed(port: int, begun: bytes) -> None:
    assert b" 200 " not in await answer_to(port, begun)


async def test_headers_that_trickle_in_do_not_extend_the_time(port: int) -> None:
    header = [b"X-%d: 1\r\n" % number for number in range(1000)]

    assert await answer_to(port, REQUEST, *header, pause=0.05) == b""


@pytest.mark.parametrize(
    ("header", "status"),
    [(b"Content-Length: 1048577", b" 413 "), (b"Transfer-Encoding: chunked", b" 411 ")],
)
async def test_a_body_that_is_too_long_or_of_no_stated_length_is_refused_before_it_is_read(
    port: int, header: bytes, status: bytes
) -> None:
    begun = b"POST /api/v1/control/pause HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + header + b"\r\n\r\n"

    assert status in await answer_to(port, begun)


async def test_a_whole_request_is_answered(port: int) -> None:
    answer = await answer_to(port, REQUEST, b"Connection: close\r\n\r\n", pause=0.1)

    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_connection_beyond_the_bound_is_closed_and_the_others_stay(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 30.0)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]

    assert await answer_to(port, REQUEST, b"Connection: close\r\n\r\n") == b""

    reader, writer = held[0]
    writer.write(REQUEST + b"Connection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    for _, other in held:
        other.close()


async def test_of_500_readers_of_the_stream_64_get_in(run: RunFolderBuilder) -> None:
    root = run.path.parent
    views = views_of(root)
    app = create_app(views, Broadcaster(views), access=Access(token=TOKEN), source=None, static=root / "static")
    answers: list[int] = []

    async def read() -> None:
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if is_read:
                await asyncio.Event().wait()
            is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answers.append(message["status"])

        names = {"path": "/api/v1/stream", "raw_path": b"/api/v1/stream", "root_path": "", "query_string": b""}
        server = {"scheme": "http", "server": ("127.0.0.1", 8265), "client": ("127.0.0.1", 1)}
        headers = [(b"host", b"127.0.0.1:8265")]
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "headers": headers, **names, **server}
        await app({**scope, "asgi": {"version": "3.0"}}, receive, send)

    async def answers_to(count: int) -> Counter[int]:
        answers.clear()
        readers = [asyncio.create_task(read()) for _ in range(count)]
        await until(lambda: len(answers) == count, f"{count} answers")
        await cancel_all(readers)
        return Counter(answers)

    assert MAX_READERS == 64
    assert await answers_to(500) == {200: 64, 503: 436}
    assert await answers_to(64) == {200: 64}  # who leaves gives the place back
