"""HTTPS of the dashboard and the endpoints, and Redis behind TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.support.certificates import certified
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.process.listening import listener
from tppo.process.web_server import QuietlyEndingServer, server_settings
from tppo.security.environment import TLS_VARIABLES
from tppo.security.tls import WEB_VARIABLES, WebCertificate, web_client_context, web_scheme
from tppo.streams import StreamsError
from tppo.streams.connection import connect


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of an authority, and of the certificate with which this process serves."""
    found = certified(tmp_path / "ours")
    for variable, source in zip(WEB_VARIABLES, TLS_VARIABLES[1:], strict=True):
        monkeypatch.setenv(variable, found[source])
    return found


@asynccontextmanager
async def a_server() -> AsyncIterator[str]:
    """Gives the address at which it says `ok`."""
    app = FastAPI()
    app.get("/")(lambda: "ok")
    server = QuietlyEndingServer(server_settings(app))
    with listener("127.0.0.1", 0, key="port") as opened:
        serving = asyncio.create_task(server.serve(sockets=[opened]))
        try:
            yield f"127.0.0.1:{opened.getsockname()[1]}"
        finally:
            server.stop()
            await serving


async def answer(url: str) -> str:
    async with httpx.AsyncClient(verify=web_client_context(), timeout=DEADLINE_SECONDS) as client:
        return str((await client.get(url)).json())


async def test_a_web_server_with_a_certificate_answers_those_who_trust_its_authority_over_tls_alone(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = certified(tmp_path / "foreign")
    async with a_server() as address:
        assert web_scheme() == "https"
        monkeypatch.setenv("TPPO_TLS_CA", files["TPPO_TLS_CA"])
        assert await answer(f"https://{address}/") == "ok"
        with pytest.raises(httpx.TransportError):
            await answer(f"http://{address}/")
        monkeypatch.setenv("TPPO_TLS_CA", foreign["TPPO_TLS_CA"])
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await answer(f"https://{address}/")


async def test_without_a_certificate_it_answers_over_plain_http() -> None:
    async with a_server() as address:
        assert (web_scheme(), await answer(f"http://{address}/")) == ("http", "ok")


def test_a_certificate_without_its_key_is_refused_by_name(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anothers = certified(tmp_path / "foreign")["TPPO_TLS_KEY"]
    for key in (anothers, "", str(tmp_path / "missing.key")):
        monkeypatch.setenv("TPPO_WEB_KEY", key)
        with pytest.raises(ConfigError, match=r"TPPO_WEB_CERTIFICATE = .*, TPPO_WEB_KEY = .*expected PEM files of a"):
            WebCertificate.from_environment()


@asynccontextmanager
async def behind_tls(files: dict[str, str], port: int) -> AsyncIterator[int]:
    """A port that demands a certificate and passes on to the other one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["TPPO_TLS_CA"])
    context.load_cert_chain(files["TPPO_TLS_CERTIFICATE"], files["TPPO_TLS_KEY"])
    context.verify_mode = ssl.CERT_REQUIRED

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(passed_on(reader, to_writer), passed_on(to_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_redis_behind_tls_is_verified_by_the_authority_and_shown_the_own_certificate(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, foreign = certified(tmp_path / "ours"), certified(tmp_path / "foreign")
    async with behind_tls(ours, int(redis_url.rpartition(":")[2].partition("/")[0])) as port:
        for name in TLS_VARIABLES:
            monkeypatch.setenv(name, ours[name])
        async with await connect(f"rediss://127.0.0.1:{port}/0") as client:
            assert await client.ping()
        for name, value in (("TPPO_TLS_CA", foreign["TPPO_TLS_CA"]), ("TPPO_TLS_CERTIFICATE", "")):
            with monkeypatch.context() as changed:
                changed.setenv(name, value)
                with pytest.raises(StreamsError):
                    await connect(f"rediss://127.0.0.1:{port}/0", timeout_seconds=DEADLINE_SECONDS)
