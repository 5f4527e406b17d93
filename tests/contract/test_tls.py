"""Mutual TLS: who shows a certificate of our authority may call; nobody else may."""

from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import certified
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.process.grpc_server import CHANNEL_OPTIONS, start_server
from tppo.security.environment import TLS_VARIABLES
from tppo.security.tls import channel, require_tls_or_token


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in TLS_VARIABLES:
        monkeypatch.setenv(name, environment.get(name, ""))


async def health(address: str) -> int:
    async with channel(address, CHANNEL_OPTIONS) as opened:
        stub = health_pb2_grpc.HealthStub(opened)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        return int(answer.status)


async def test_only_a_certificate_of_the_same_authority_may_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, foreign = certified(tmp_path / "ours"), certified(tmp_path / "foreign")
    use(monkeypatch, ours)
    server, port = await start_server("any", lambda server: None, host="127.0.0.1", port=0)
    try:
        assert await health(f"127.0.0.1:{port}") == health_pb2.HealthCheckResponse.SERVING
        impostor = {**foreign, "TPPO_TLS_CA": ours["TPPO_TLS_CA"]}
        for environment in ({}, foreign, impostor):
            use(monkeypatch, environment)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await health(f"127.0.0.1:{port}")
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)


def test_a_missing_or_wrong_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"TPPO_TLS_CA": str(tmp_path / "absent.pem")})
    with pytest.raises(ConfigError, match=r"TPPO_TLS_CA = .*absent\.pem.*No such file"):
        channel("127.0.0.1:1", ())

    (tmp_path / "text.pem").write_text("no certificate")
    use(monkeypatch, {"TPPO_TLS_CA": str(tmp_path / "text.pem")})
    with pytest.raises(ConfigError, match=r"TPPO_TLS_CA = .*text\.pem.*expected a PEM file"):
        channel("127.0.0.1:1", ())


def test_a_certificate_or_a_token_is_required_beyond_the_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, certified(tmp_path / "ours"))
    require_tls_or_token("0.0.0.0", "")

    use(monkeypatch, {})
    with pytest.raises(ConfigError, match="TPPO_TOKEN"):
        require_tls_or_token("0.0.0.0", "")
