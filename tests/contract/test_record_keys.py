"""Where a process finds the key of its role, and the learner all of them."""

import stat
from pathlib import Path

import pytest

from tests.learner.builders import a_config
from tppo.config import ConfigError
from tppo.config.schema import RunSection
from tppo.run_folder.paths import RunPaths
from tppo.security.envelope import Writer
from tppo.security.private_files import write_secret
from tppo.security.record_keys import kept_records, record_key, record_secrets, role_key, sealer


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSection:
    """A run whose folder is not there yet, and no secret in the environment."""
    for variable in ("TPPO_TOKEN", "TPPO_RECORD_SECRET", *(role.variable for role in Writer)):
        monkeypatch.delenv(variable, raising=False)
    return a_config(run={"directory": tmp_path, "name": "run"}).run


def test_the_secret_is_made_once_and_readable_by_its_owner_alone(run: RunSection) -> None:
    (secret,) = record_secrets(run)
    path = RunPaths(run.path).record_secret

    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{secret}\n", 0o600)
    assert record_secrets(run) == [secret]
    assert {role: record_key(run, role) for role in Writer} == {role: role_key(secret, role) for role in Writer}


def test_no_roles_key_opens_another() -> None:
    keys = {role_key("secret", role) for role in Writer}

    # printf "records 1 reward" | openssl dgst -sha256 -hmac secret
    assert role_key("secret", Writer.REWARD) == "2d6a8869dec71c2bc254612d5ce6caff88e6a2016dea55849792806b7d390648"
    assert len(keys) == len(Writer)
    assert not keys & {role_key(key, role) for key in keys for role in Writer}


def test_a_process_that_is_handed_its_own_key_needs_neither_folder_nor_secret(
    run: RunSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPPO_GENERATION_RECORD_KEY", "of the generators")

    assert record_key(run, Writer.GENERATION) == "of the generators"
    assert not run.path.exists()


def test_processes_that_share_the_operators_secret_agree_without_a_folder(
    run: RunSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPPO_TOKEN", "correct horse")
    elsewhere = a_config(run={"directory": tmp_path / "elsewhere", "name": "run"}).run
    another = a_config(run={"directory": tmp_path, "name": "another"}).run

    key = record_key(elsewhere, Writer.REWARD)
    (secret,) = record_secrets(run)

    assert (key, elsewhere.path.exists()) == (role_key(secret, Writer.REWARD), False)
    assert key != record_key(another, Writer.REWARD)
    assert "correct horse" not in secret


def test_a_run_that_is_resumed_with_another_secret_keeps_the_earlier_one_for_its_archive(
    run: RunSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = record_secrets(run)
    monkeypatch.setenv("TPPO_RECORD_SECRET", "a-second-secret-of-the-run")

    assert record_secrets(run) == record_secrets(run) == [*first, "a-second-secret-of-the-run"]
    assert record_key(run, Writer.REWARD) == role_key("a-second-secret-of-the-run", Writer.REWARD)
    assert stat.S_IMODE(RunPaths(run.path).record_secret.stat().st_mode) == 0o600
    found = kept_records(run.path)
    assert found is not None
    assert found.sealer(Writer.LEARNER).seal(b"a") == sealer(run, Writer.LEARNER).seal(b"a")


def test_records_without_the_secret_that_verifies_them_are_refused_instead_of_a_new_secret(run: RunSection) -> None:
    inbox = RunPaths(run.path).inbox
    inbox.mkdir(parents=True)
    (inbox / "1-0.log").write_bytes(b"")

    for ask in (lambda: record_secrets(run), lambda: record_key(run, Writer.OPERATOR)):
        with pytest.raises(ConfigError, match=r"record\.secret: no such file, and .*inbox holds records; expected"):
            ask()
    assert not RunPaths(run.path).record_secret.exists()
    assert kept_records(run.path) is None


def test_a_secret_that_others_can_read_is_refused_and_never_replaced(run: RunSection) -> None:
    path = RunPaths(run.path).record_secret
    write_secret(path, "a-secret-of-the-run")
    path.chmod(0o644)

    for ask in (lambda: record_secrets(run), lambda: kept_records(run.path)):
        with pytest.raises(ConfigError, match=r"record\.secret: expected a file of this user's .* \(mode 0600\)"):
            ask()
    assert path.read_text() == "a-secret-of-the-run\n"
