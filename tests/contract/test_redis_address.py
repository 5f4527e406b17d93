"""Where a process finds the run's Redis."""

from pathlib import Path

import pytest

from tppo.config import Config, ConfigError
from tppo.security.private_files import write_secret
from tppo.security.redis_address import with_redis

KEPT = "redis://:of-the-run-folder@127.0.0.1:7000/0"


def config_in(folder: Path, url: str = "") -> Config:
    table = {"run": {"directory": folder}, "model": {"path": folder}, "data": {"train_files": [folder]}}
    return Config.model_validate({**table, "redis": {"url": url}})


def test_the_configuration_goes_before_the_environment_and_that_before_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TPPO_REDIS_URL", raising=False)
    write_secret(tmp_path / "run" / "redis.url", KEPT)
    assert with_redis(config_in(tmp_path)).redis.url == KEPT

    monkeypatch.setenv("TPPO_REDIS_URL", "redis://environment:1")
    assert with_redis(config_in(tmp_path)).redis.url == "redis://environment:1"
    assert with_redis(config_in(tmp_path, "redis://configured:1")).redis.url == "redis://configured:1"


def test_without_an_address_one_sentence_says_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPPO_REDIS_URL", raising=False)

    with pytest.raises(ConfigError, match=r"^redis\.url is empty; expected .* or TPPO_REDIS_URL, or a run that"):
        with_redis(config_in(tmp_path))
