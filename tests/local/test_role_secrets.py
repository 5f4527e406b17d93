"""`tppo secrets`: each role's file has what the role needs, and nothing of another's."""

import stat
from pathlib import Path

import pytest

from services.local.role_secrets import main
from tests.support.redis_server import StartRedis
from tppo.config import ConfigError
from tppo.config.schema import RunSection
from tppo.security.envelope import Writer
from tppo.security.record_keys import record_key, record_secrets
from tppo.streams.connection import connect

CONFIG = '[run]\nname = "ours"\n[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'
ROLES = ("generation", "reward", "learner", "dashboard")


def made(folder: Path, url: str) -> dict[str, dict[str, str]]:
    """The variables of each role."""
    (folder / "run.toml").write_text(CONFIG)
    assert main([str(folder / "run.toml"), "--redis", url, "--out", str(folder / "secrets")]) == 0
    lines = {role: (folder / "secrets" / f"{role}.env").read_text().splitlines() for role in ROLES}
    return {role: dict(line.split("=", 1) for line in ones) for role, ones in lines.items()}


def test_each_role_has_its_own_secrets_and_no_others(tmp_path: Path) -> None:
    environments = made(tmp_path, "redis://host:6379/0")

    names = {role: {name.removeprefix("TPPO_") for name in environment} for role, environment in environments.items()}
    common = {"REDIS_URL", "METRICS_TOKEN"}
    of_generators = {"GENERATION_TOKEN", "GENERATION_RECORD_KEY"}
    assert names == {
        "generation": {*common, *of_generators, "ENDPOINT_TOKEN"},
        "reward": {*common, "REWARD_TOKEN", "REWARD_RECORD_KEY"},
        "learner": {*common, "GENERATION_TOKEN", "LEARNER_TOKEN", "RECORD_SECRET"},
        "dashboard": {*common, *of_generators, "DASHBOARD_TOKEN", "OPERATOR_RECORD_KEY", "JOIN_REDIS_URL"},
    }
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()}
    assert modes == {0o600}


def test_the_learner_verifies_what_the_others_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = made(tmp_path, "redis://host:6379/0")
    run = RunSection(directory=tmp_path, name="ours")
    keys = {
        Writer.GENERATION: environments["generation"]["TPPO_GENERATION_RECORD_KEY"],
        Writer.REWARD: environments["reward"]["TPPO_REWARD_RECORD_KEY"],
        Writer.OPERATOR: environments["dashboard"]["TPPO_OPERATOR_RECORD_KEY"],
    }

    monkeypatch.setenv("TPPO_RECORD_SECRET", environments["learner"]["TPPO_RECORD_SECRET"])
    record_secrets(run)

    assert {role: record_key(run, role) for role in keys} == keys


async def test_a_server_with_the_users_lets_each_role_in(tmp_path: Path, start_redis: StartRedis) -> None:
    environments = made(tmp_path, "redis://host:6379/0")

    with start_redis(tmp_path / "redis", "--include", str(tmp_path / "secrets" / "users.acl")) as server:
        for role, environment in environments.items():
            url = environment["TPPO_REDIS_URL"].replace("host:6379", f"127.0.0.1:{server.port}")
            async with await connect(url) as client:
                assert await client.execute_command("PING"), role


@pytest.mark.parametrize("url", ["", "host:6379", "http://host", "redis://:password@host:6379", "redis://h;ls"])
def test_an_address_that_is_none_or_has_a_password_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"--redis .*: expected the address of the run's Redis without user"):
        made(tmp_path, url)


def test_secrets_that_are_there_are_never_replaced(tmp_path: Path) -> None:
    made(tmp_path, "redis://host:6379/0")

    with pytest.raises(ConfigError, match=r"generation\.env is there; expected a folder without secrets"):
        made(tmp_path, "redis://host:6379/0")
