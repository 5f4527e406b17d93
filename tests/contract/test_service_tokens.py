"""The tokens of the services: derived, kept in the run's folder, and found by clients of the same user."""

import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.damage import DAMAGES, damage
from tppo.config import ConfigError
from tppo.security.authentication import Service, token_from_environment
from tppo.security.private_files import kept_secret, private_folder, read_secret, write_secret
from tppo.security.service_tokens import published, run_token, service_token, token_for

TOKEN = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No token in the environment, and a folder of the test's own for those that are found by port."""
    for variable in ("TPPO_TOKEN", *(service.variable for service in Service)):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TPPO_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    token = run_token(tmp_path / "run", Service.DASHBOARD)
    path = tmp_path / "run" / "dashboard.token"

    assert (path.read_text(), mode(path), mode(path.parent)) == (f"{token}\n", 0o600, 0o700)
    assert run_token(tmp_path / "run", Service.DASHBOARD) == token
    assert run_token(tmp_path / "other", Service.DASHBOARD) != token


@pytest.mark.parametrize(
    ("text", "permissions"),
    [
        ("a-token-that-others-could-read\n", 0o644),
        ("short\n", 0o600),
        ("\va-token-whose-first-letter-has-lost-a-bit\n", 0o600),
        ("a-token-whose-last-letter-has-lost-a-bit\t\n", 0o600),
    ],
)
def test_a_token_that_others_could_read_or_that_is_damaged_is_replaced(
    tmp_path: Path, text: str, permissions: int
) -> None:
    path = tmp_path / "reward.token"
    path.write_text(text)
    path.chmod(permissions)

    token = run_token(tmp_path, Service.REWARD)

    assert token not in text
    assert (path.read_text(), mode(path), len(token) >= 20) == (f"{token}\n", 0o600, True)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_token_is_replaced_by_one_that_fits_into_a_header(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dashboard.token"
    run_token(tmp_path, Service.DASHBOARD)
    damage(path, kind)

    token = run_token(tmp_path, Service.DASHBOARD)

    assert (path.read_text(), mode(path)) == (f"{token}\n", 0o600)
    assert token.isascii()
    assert token.isprintable()
    assert len(token) >= 20


def test_a_link_in_the_place_of_a_token_is_not_followed(tmp_path: Path) -> None:
    write_secret(tmp_path / "elsewhere", TOKEN)
    (tmp_path / "reward.token").symlink_to(tmp_path / "elsewhere")

    assert run_token(tmp_path, Service.REWARD) != TOKEN
    assert read_secret(tmp_path / "elsewhere") == TOKEN


def test_who_keeps_a_secret_second_takes_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"

    def keep_meanwhile() -> str:
        write_secret(path, TOKEN)
        return "another-token-of-some-length"

    monkeypatch.setattr("tppo.security.private_files.new_secret", keep_meanwhile)

    assert kept_secret(path) == TOKEN
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused_in_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(ConfigError, match=r"generation\.token: cannot keep .* or the token in TPPO_GENERATION_TOKEN"):
        run_token(tmp_path, Service.GENERATION)


def test_a_folder_that_its_owner_has_opened_stays_open(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)

    assert mode(private_folder(tmp_path / "shared")) == 0o755
    assert mode(private_folder(tmp_path / "new")) == 0o700


def test_the_services_of_one_secret_have_different_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPPO_TOKEN", "correct horse")

    tokens = {service: token_from_environment(service) for service in Service}

    # printf reward | openssl dgst -sha256 -hmac "correct horse"
    assert tokens[Service.REWARD] == "deaf23d6a2d59ffe685693aa29e6e1b2cb5bc3947dd0cb2dac67d61598f176ef"
    assert tokens[Service.DASHBOARD] == "correct horse"
    assert len(set(tokens.values())) == len(Service)


def test_a_token_of_the_services_own_goes_before_the_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TPPO_TOKEN", "correct horse")
    monkeypatch.setenv("TPPO_GENERATION_TOKEN", "battery staple")

    assert service_token(tmp_path / "run", Service.GENERATION) == "battery staple"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:50052", "localhost:50052", "[::1]:50052"])
def test_a_client_of_the_same_user_finds_the_token_by_the_port(runtime: Path, address: str) -> None:
    with published(50052, TOKEN):
        assert token_for(address) == TOKEN
        assert (mode(runtime), mode(runtime / "reward-50052.token")) == (0o700, 0o600)
        assert [token_for("127.0.0.1:50053"), token_for("elsewhere:50052"), token_for("127.0.0.1")] == [""] * 3

    assert token_for(address) == ""


def test_a_service_that_ends_leaves_the_token_of_its_successor() -> None:
    with ExitStack() as successor:
        with published(50052, TOKEN):
            successor.enter_context(published(50052, "the-successors-own-token"))

        assert token_for("127.0.0.1:50052") == "the-successors-own-token"


def test_a_folder_that_others_can_enter_is_not_trusted(runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    runtime.mkdir(mode=0o755)
    write_secret(runtime / "reward-50052.token", TOKEN)

    assert token_for("127.0.0.1:50052") == ""
    with published(50053, TOKEN):
        assert not (runtime / "reward-50053.token").exists()
    assert "clients must bring the token in TPPO_REWARD_TOKEN" in caplog.text
