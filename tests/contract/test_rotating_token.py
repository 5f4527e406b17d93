"""A token that its owner replaces while processes run: where it is looked for, and what they do meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tppo.config import ConfigError
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import Service, call_metadata, derived_token, is_bearer, is_same_token
from tppo.security.private_files import write_secret
from tppo.security.rotating_token import (
    GRACE_SECONDS,
    RotatingToken,
    rotating_metrics_token,
    served_client_token,
    served_token,
)
from tppo.security.service_tokens import published, token_for

FIRST, SECOND = "the-first-token-of-all", "the-second-token-of-all"


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TPPO_TOKEN", "TPPO_METRICS_TOKEN", *(service.variable for service in Service)):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


class Hand:
    """A file, and a clock by which it is written and looked at."""

    def __init__(self, path: Path, read: Callable[[], str] | None = None) -> None:
        self.path, self.now = path, 1000.0
        self.write(FIRST)
        self.token = RotatingToken(FIRST, path, read or (lambda: path.read_text().strip()), clock=lambda: self.now)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        os.utime(self.path, (self.now, self.now))

    def accepted(self) -> list[bool]:
        return [self.token.accepts(one) for one in (FIRST, SECOND)]


def test_the_grace_is_counted_from_the_writing_however_late_anybody_calls(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "token")
    hand.now += 1
    hand.write(SECOND)

    hand.now += GRACE_SECONDS - 1
    assert hand.accepted() == [True, True]
    hand.now += 2
    assert hand.accepted() == [False, True]

    late = Hand(tmp_path / "late")
    late.now += 1
    late.write(SECOND)
    late.now += GRACE_SECONDS + 1
    assert late.accepted() == [False, True]


def test_callers_bring_the_newest_one(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "token")
    assert call_metadata(hand.token) == (("authorization", f"Bearer {FIRST}"),)

    hand.now += 1
    hand.write(SECOND)
    hand.now += 2

    assert call_metadata(hand.token) == (("authorization", f"Bearer {SECOND}"),)
    assert is_bearer(f"Bearer {SECOND}", hand.token)
    assert not is_bearer(SECOND, hand.token)
    assert SECOND not in repr(hand.token)


@pytest.mark.parametrize("trouble", ["gone", "empty", "refused"])
def test_a_file_that_cannot_be_read_in_this_moment_changes_nothing(tmp_path: Path, trouble: str) -> None:
    is_refused = [False]

    def read() -> str:
        if is_refused[0]:
            raise ConfigError("no token")
        return hand.path.read_text().strip()

    hand = Hand(tmp_path / "token", read)
    hand.now += 2
    if trouble == "gone":
        hand.path.unlink()
    else:
        hand.write("")
        is_refused[0] = trouble == "refused"
    assert hand.accepted() == [True, False]

    is_refused[0] = False
    hand.write(SECOND)
    hand.now += 2
    assert hand.accepted() == [True, True]


def test_a_token_of_the_runs_folder_is_watched_there(tmp_path: Path) -> None:
    path = RunPaths(tmp_path).token(Service.REWARD)
    write_secret(path, FIRST)
    os.utime(path, (0, 0))
    token = served_token(tmp_path, Service.REWARD)
    assert is_same_token(FIRST, token)

    write_secret(path, SECOND)
    token._looked_at = 0.0  # type: ignore[union-attr]

    assert (str(token), is_same_token(FIRST, token)) == (SECOND, True)


@pytest.mark.parametrize("variable", ["TPPO_REWARD_TOKEN", "TPPO_TOKEN"])
def test_a_token_of_a_file_that_the_environment_names_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    file = tmp_path / "secret"
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    expected = (lambda text: text) if variable == "TPPO_REWARD_TOKEN" else derived
    file.write_text(FIRST)
    os.utime(file, (0, 0))
    token = served_client_token(tmp_path, Service.REWARD)
    assert str(token) == expected(FIRST)

    file.write_text(SECOND)
    token._looked_at = 0.0

    assert str(token) == expected(SECOND)


def derived(secret: str) -> str:
    return derived_token(secret, Service.REWARD)


def test_clients_that_find_the_token_by_the_port_find_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPPO_RUNTIME_DIR", str(tmp_path / "runtime"))
    hand = Hand(tmp_path / "token")
    with published(50052, hand.token):
        assert token_for("127.0.0.1:50052") == FIRST
        hand.now += 1
        hand.write(SECOND)
        hand.now += GRACE_SECONDS + 1

        assert not hand.token.accepts(FIRST)  # who comes too late is refused, and looks again

        assert token_for("127.0.0.1:50052") == SECOND
    assert token_for("127.0.0.1:50052") == ""


def test_a_token_in_a_variable_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPPO_REWARD_TOKEN", FIRST)
    write_secret(RunPaths(tmp_path).token(Service.REWARD), SECOND)

    assert str(served_client_token(tmp_path, Service.REWARD)) == FIRST


def test_the_token_of_those_who_scrape_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rotating_metrics_token() == ""
    monkeypatch.setenv("TPPO_METRICS_TOKEN_FILE", str(tmp_path / "metrics"))
    (tmp_path / "metrics").write_text(FIRST)
    os.utime(tmp_path / "metrics", (0, 0))
    token = rotating_metrics_token()

    (tmp_path / "metrics").write_text(SECOND)
    token._looked_at = 0.0  # type: ignore[union-attr]

    assert (str(token), is_same_token(SECOND, token)) == (SECOND, True)
