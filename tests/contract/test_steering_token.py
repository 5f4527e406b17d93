"""The token that steers a run, in the run's folder."""

import stat
from pathlib import Path

from tppo.security.steering_token import steering_token


def test_the_token_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    token = steering_token(tmp_path / "run")
    path = tmp_path / "run" / "dashboard.token"

    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{token}\n", 0o600)
    assert steering_token(tmp_path / "run") == token
    assert steering_token(tmp_path / "other") != token


def test_a_token_that_others_can_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.token"
    path.write_text("a-token-that-others-could-read\n")
    path.chmod(0o644)

    token = steering_token(tmp_path)

    assert token != "a-token-that-others-could-read"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{token}\n", 0o600)


def test_a_truncated_token_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.token"
    path.write_text("short\n")
    path.chmod(0o600)

    assert len(steering_token(tmp_path)) >= 20
