"""Each service of `docker-compose.yml` is given the secrets of its role and no other, as files, and finds them."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.local.processes import SECRETS_OF_ROLES
from services.local.role_secrets import main, of_containers
from tests.support.processes import QUICKSTART, tppo
from tests.support.redis_server import StartRedis
from tppo.process.presence import Presence, announce
from tppo.security.redis_address import redis_url_from_environment
from tppo.streams.connection import connect

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
FOLDER = "${TPPO_SECRETS:?see .env.example}"
WORKERS = ("generation", "generation-gpu", "reward", "learner", "learner-gpu", "dashboard")
OF_NO_ROLE = {
    "redis": ["users.acl", "redis_password"],
    "prometheus": ["metrics_token"],
    "grafana": ["grafana_password"],
    "summary": [],
    "secrets": [],
}


def role_of(service: str) -> str:
    return service.removesuffix("-gpu")


def variables_of(role: str) -> set[str]:
    """Those of `tppo run`, and what stands in for the run's folder and the address with a password in it."""
    more = {"learner": {"TPPO_RECORD_SECRET"}, "dashboard": {"TPPO_JOIN_REDIS_PASSWORD"}}
    own = {one.variable for one in SECRETS_OF_ROLES[role]}
    return {*own, "TPPO_REDIS_PASSWORD", "TPPO_METRICS_TOKEN", *more.get(role, ())}


def files_of(service: str) -> dict[str, str]:
    """By variable, the names of the files."""
    environment = COMPOSE["services"][service]["environment"]
    files = {name: path for name, path in environment.items() if name.endswith("_FILE")}
    assert all(path.startswith("/run/secrets/") for path in files.values())
    return {name.removesuffix("_FILE"): path.removeprefix("/run/secrets/") for name, path in files.items()}


def environment_of(service: str, folder: Path, port: int = 6379) -> dict[str, str]:
    """What a process of the service is started with: its secrets in the folder, Redis at a port of this machine."""
    given = {name: str(value) for name, value in COMPOSE["services"][service]["environment"].items()}
    moved = {name: value.replace("/run/secrets", str(folder)) for name, value in given.items() if name[:4] == "TPPO"}
    return os.environ | {name: value.replace("@redis:6379", f"@127.0.0.1:{port}") for name, value in moved.items()}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """As `tppo secrets --compose` makes them."""
    assert main(["--compose", "--out", str(tmp_path / "secrets")]) == 0
    return tmp_path / "secrets"


def test_every_secret_is_a_file_that_the_command_makes() -> None:
    assert COMPOSE["secrets"] == {name: {"file": f"{FOLDER}/{name}"} for name in of_containers()}


@pytest.mark.parametrize("service", WORKERS)
def test_a_service_has_the_secrets_of_its_role_and_no_others(service: str) -> None:
    definition, files = COMPOSE["services"][service], files_of(service)

    assert set(files) == variables_of(role_of(service))
    assert sorted(definition["secrets"]) == sorted(files.values())
    for variable, name in files.items():
        kind = variable.removeprefix("TPPO_").removeprefix("JOIN_").lower()
        owner = "generation" if "JOIN" in variable else role_of(service)
        assert name == (f"{owner}_{kind}" if kind == "redis_password" else kind)


@pytest.mark.parametrize("service", WORKERS)
def test_a_service_is_a_user_of_its_own_of_redis(service: str) -> None:
    assert COMPOSE["services"][service]["environment"]["TPPO_REDIS_URL"] == f"redis://{role_of(service)}@redis:6379/0"


def test_no_other_service_has_a_secret_of_a_role() -> None:
    others = {name: one.get("secrets", []) for name, one in COMPOSE["services"].items() if name not in WORKERS}

    assert others == OF_NO_ROLE
    for name in ("summary", "secrets"):
        assert COMPOSE["services"][name]["network_mode"] == "none"


def test_no_secret_stands_in_an_environment_or_on_a_command_line() -> None:
    for service in COMPOSE["services"].values():
        environment = service.get("environment", {})
        is_address = {
            name for name, value in environment.items() if re.fullmatch(r"redis://\w+@redis:6379/0", str(value))
        }
        is_file = {name for name in environment if name.endswith("_FILE")}
        assert set(environment) - is_address - is_file <= {"OMP_NUM_THREADS"}
        assert not re.search("password|token|auth", " ".join(service.get("command", [])))


async def test_the_server_lets_each_service_in_by_its_files(
    secrets: Path, start_redis: StartRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, configuration, option, users = COMPOSE["services"]["redis"]["command"]
    assert (program, configuration, option) == ("redis-server", "/etc/tppo/redis.conf", "--aclfile")

    with start_redis(tmp_path / "redis", option, users.replace("/run/secrets", str(secrets))) as server:
        for service in WORKERS:
            for name, value in environment_of(service, secrets, server.port).items():
                monkeypatch.setenv(name, value)
            async with await connect(redis_url_from_environment()) as client:
                assert await client.ping(), service


@pytest.mark.parametrize(("kind", "exit_code"), [("learner", 0), ("reward", 1)])
async def test_a_health_check_finds_its_service_as_the_user_of_its_role(
    secrets: Path, start_redis: StartRedis, kind: str, exit_code: int, tmp_path: Path
) -> None:
    program, check, path, checked = COMPOSE["services"][kind]["healthcheck"]["test"][1:]
    assert (program, check, checked) == ("python", "/app/deploy/healthcheck.py", kind)
    assert path == "/task/${TPPO_CONFIG:-quickstart.toml}"
    here = Presence("l", "learner", address="", started_at=0.0, pid=1, host=socket.gethostname())
    administrator = (secrets / "redis_password").read_text().strip()

    with start_redis(tmp_path / "redis", "--aclfile", str(secrets / "users.acl")) as server:
        async with await connect(f"redis://:{administrator}@127.0.0.1:{server.port}/0") as client:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(ROOT / "deploy" / "healthcheck.py"), str(QUICKSTART), kind),
                env=environment_of(kind, secrets, server.port),
            )
            ended = asyncio.create_task(process.wait())
            while not ended.done():
                await announce(client, "quickstart", here)  # one heartbeat might be too old for a slow start of Python
                await asyncio.wait([ended], timeout=1.0)

    assert await ended == exit_code


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("generation", "TPPO_GENERATION_TOKEN"),
        ("generation", "TPPO_GENERATION_RECORD_KEY"),
        ("reward", "TPPO_REWARD_TOKEN"),
        ("reward", "TPPO_REWARD_RECORD_KEY"),
        ("learner", "TPPO_REDIS_PASSWORD"),
        ("dashboard", "TPPO_DASHBOARD_TOKEN"),
        ("dashboard", "TPPO_JOIN_REDIS_PASSWORD"),
    ],
)
def test_a_process_whose_file_is_missing_names_the_variable_the_file_and_what_was_expected(
    secrets: Path, service: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(service, secrets).items():
        monkeypatch.setenv(name, value)
    missing = secrets / files_of(service)[variable]
    missing.unlink()

    ended = tppo(service, QUICKSTART, f"--set=run.directory={tmp_path}")

    assert ended.returncode == 2
    expected = (
        f"{variable}_FILE = {missing}: No such file or directory; expected a file with the secret, which this user"
    )
    assert expected in ended.stderr


def test_without_a_folder_for_secrets_compose_says_where_it_is_explained(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TPPO_SECRETS"}
    compose = [str(Path(sys.executable).with_name("docker-compose")), "--env-file", os.devnull, "config", "--quiet"]

    ran = subprocess.run(compose, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert "required variable TPPO_SECRETS is missing a value: see .env.example" in ran.stderr
    assert "docker compose run --rm --user" in (ROOT / ".env.example").read_text()
