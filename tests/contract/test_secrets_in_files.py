"""A secret may come as a file: containers show their environment to whoever may look at them."""

from pathlib import Path

import pytest

from tppo.config import ConfigError
from tppo.security.authentication import Service, derived_token, metrics_token_from_environment, token_from_environment
from tppo.security.redis_address import redis_url_from_environment


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("of the file\n")
    return path


def test_every_secret_may_be_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPPO_TOKEN_FILE", str(file))
    monkeypatch.setenv("TPPO_METRICS_TOKEN_FILE", str(file))

    assert token_from_environment(Service.REWARD) == derived_token("of the file", Service.REWARD)
    assert token_from_environment(Service.DASHBOARD) == "of the file"
    assert metrics_token_from_environment() == "of the file"


def test_a_variable_goes_before_its_file_and_a_service_s_own_token_before_the_operator_s(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPPO_TOKEN", "of the variable")
    monkeypatch.setenv("TPPO_TOKEN_FILE", str(file))
    assert token_from_environment(Service.DASHBOARD) == "of the variable"

    monkeypatch.setenv("TPPO_DASHBOARD_TOKEN_FILE", str(file))
    assert token_from_environment(Service.DASHBOARD) == "of the file"


def test_a_file_that_cannot_be_read_or_is_empty_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    monkeypatch.setenv("TPPO_TOKEN_FILE", str(path))
    with pytest.raises(ConfigError, match=r"^TPPO_TOKEN_FILE = .*/secret: .*No such file.*; expected a file with"):
        token_from_environment(Service.REWARD)

    path.write_text(" \n")
    with pytest.raises(ConfigError, match=r"^TPPO_TOKEN_FILE = .*/secret: the file is empty; expected the secret$"):
        token_from_environment(Service.REWARD)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://redis:6379/0", "redis://:of%20the%20file@redis:6379/0"),
        ("rediss://worker@redis:6379", "rediss://worker:of%20the%20file@redis:6379"),
        ("redis://:own@redis:6379/0", "redis://:own@redis:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("", ""),
    ],
)
def test_the_password_of_redis_joins_an_address_without_one(
    url: str, expected: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPPO_REDIS_URL", url)
    monkeypatch.setenv("TPPO_REDIS_PASSWORD_FILE", str(file))

    assert redis_url_from_environment() == expected
