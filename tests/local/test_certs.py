"""`tppo certs`: what it makes is what mutual TLS needs."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytest.importorskip("cryptography")

from services.local.certs.__main__ import main
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.process.grpc_server import CHANNEL_OPTIONS, start_server
from tppo.security.environment import TLS_VARIABLES
from tppo.security.tls import channel


def made(folder: Path, *hosts: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """The variables that it prints, by host."""
    assert main([str(folder), *hosts]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {host: dict(part.split("=", 1) for part in line.split(" ")) for host, line in zip(hosts, lines, strict=True)}


@contextmanager
def using(environment: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in TLS_VARIABLES:
            patch.setenv(name, environment.get(name, ""))
        yield


async def is_answered(port: int) -> bool:
    async with channel(f"localhost:{port}", CHANNEL_OPTIONS) as opened:
        stub = health_pb2_grpc.HealthStub(opened)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


async def test_processes_with_its_certificates_call_each_other_and_nobody_else_calls_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner, generation = made(tmp_path / "ours", "learner", "10.1.2.3", capsys=capsys).values()
    later = made(tmp_path / "ours", "generation-9", capsys=capsys)["generation-9"]
    foreign = made(tmp_path / "foreign", "learner", capsys=capsys)["learner"]

    with using(generation):
        server, port = await start_server("any", lambda server: None, host="127.0.0.1", port=0)
    try:
        for environment, expected in ((learner, True), (later, True), (foreign, False), ({}, False)):
            with using(environment):
                assert await is_answered(port) is expected
    finally:
        await server.stop(0)


def test_keys_are_for_their_owner_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "tls", "learner", capsys=capsys)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "learner.key": 0o600, "learner.pem": 0o644}


@pytest.mark.parametrize("arguments", [["../a"], ["ca"], ["a b"], ["host", "--days", "0"], ["host", "--days", "9999"]])
def test_what_is_no_host_or_no_time_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        main([str(tmp_path / "tls"), *arguments])
    assert not (tmp_path / "tls").exists()


def test_an_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("no key")

    with pytest.raises(ConfigError, match=r"ca\.key: .*expected an authority that `tppo certs` has made"):
        main([str(tmp_path), "learner"])
