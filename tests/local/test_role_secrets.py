"""`tppo secrets`: each role is handed what it needs, and nothing of another's."""

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


def made_for_containers(folder: Path) -> dict[str, str]:
    """By file, what is in it."""
    assert main(["--compose", "--out", str(folder)]) == 0
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_containers_have_a_file_for_each_secret_that_their_users_can_read_and_no_other_user(tmp_path: Path) -> None:
    files = made_for_containers(tmp_path / "secrets")

    assert files.keys() == {
        *("users.acl", "redis_password", *(f"{role}_redis_password" for role in ROLES)),
        *("generation_token", "endpoint_token", "reward_token", "dashboard_token", "metrics_token", "grafana_password"),
        *("record_secret", "generation_record_key", "reward_record_key", "operator_record_key"),
    }
    assert len(set(files.values())) == len(files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o644}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert not [name for name, text in files.items() if name != "users.acl" and text in files["users.acl"]]


def test_a_learner_in_a_container_verifies_what_the_others_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = made_for_containers(tmp_path / "secrets")
    run = RunSection(directory=tmp_path, name="any")

    monkeypatch.setenv("TPPO_RECORD_SECRET_FILE", str(tmp_path / "secrets" / "record_secret"))
    record_secrets(run)

    for role in (Writer.GENERATION, Writer.REWARD, Writer.OPERATOR):
        assert record_key(run, role) == files[f"{role}_record_key"]


def test_a_folder_that_others_may_enter_is_refused_for_containers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    with pytest.raises(ConfigError, match=r"others may enter it \(mode 055 for them\); expected chmod 700"):
        main(["--compose", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_the_secret_that_containers_had_in_common_is_named_and_nothing_is_made_beside_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "token").write_text("of all")

    with pytest.raises(ConfigError, match=r"token is the one secret .* expected another folder, or that file and"):
        main(["--compose", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_secrets_of_containers_are_never_replaced(tmp_path: Path) -> None:
    before = made_for_containers(tmp_path / "secrets")

    with pytest.raises(ConfigError, match=r"users\.acl is there; expected a folder without secrets"):
        main(["--compose", "--out", str(tmp_path / "secrets")])
    assert {path.name: path.read_text().strip() for path in (tmp_path / "secrets").iterdir()} == before


@pytest.mark.parametrize("arguments", [[], ["--compose", "run.toml"], ["--compose", "--redis", "redis://host:6379/0"]])
def test_secrets_are_either_of_a_runs_machines_or_of_containers(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--out", str(tmp_path / "secrets")])
    assert "expected the run's TOML file and --redis URL, or --compose and neither of them" in capsys.readouterr().err
    assert not (tmp_path / "secrets").exists()
