"""A generator that joins a run by the address of its dashboard and a token."""

import json
import ssl
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.generation import __main__
from services.generation.fleet.joining import Invitation, invitation, joined_config, read_token
from tests.learner.builders import a_config
from tests.support.certificates import certified
from tppo.config import Config, ConfigError, dump

TOKEN = "generation-token"
ARCHITECTURE = {"model_type": "qwen2", "hidden_size": 32}


@contextmanager
def dashboard(status: int = 200, body: Any = None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answers every request alike, but for the token; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_allowed = self.path == "/api/v1/join" and self.headers["Authorization"] == f"Bearer {TOKEN}"
            content = json.dumps(body if is_allowed else {"detail": "joining needs a token"}).encode()
            self.send_response(status if is_allowed else 401)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def a_run(model: Path, **sections: dict[str, Any]) -> Config:
    return a_config(model={"path": model}, run={"name": "shared", "directory": Path("/runs")}, **sections)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**ARCHITECTURE, "transformers_version": "5.1"}))
    return folder


def invited(
    config: Config, *, own_host: str = "127.0.0.1", redis_url: str = "redis://:pw@127.0.0.1:7000/0"
) -> Invitation:
    return Invitation("http://run:8265", dump(config), redis_url, ARCHITECTURE, "a key", own_host=own_host)


def test_the_answer_of_the_dashboard_is_the_runs_configuration_with_its_redis(model: Path) -> None:
    answer = {"run": "shared", "config": dump(a_run(model)), "redis_url": "redis://:pw@127.0.0.1:7000/0", "model": {}}
    answer["record_key"] = "a key"

    with dashboard(body=answer) as address:
        found = invitation(address, TOKEN)
    config = joined_config(found, ["generation.num_slots=5", "generation.device=cpu"])

    assert (config.run.name, config.redis.url) == ("shared", "redis://:pw@127.0.0.1:7000/0")
    assert found.record_key == "a key"
    assert (config.generation.num_slots, config.generation.device) == (5, "cpu")
    assert (config.generation.host, config.generation.port, config.endpoint.enabled) == ("127.0.0.1", 0, False)


def test_a_dashboard_over_https_is_verified_by_the_authority(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"config": dump(a_run(model)), "redis_url": "rediss://run:7000/0", "model": {}, "record_key": "a key"}
    files = certified(tmp_path / "tls")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files["TPPO_TLS_CERTIFICATE"], files["TPPO_TLS_KEY"])

    with dashboard(body=answer, tls=tls) as address:
        with pytest.raises(ConfigError, match="certificate verify failed"):
            invitation(address, TOKEN)
        monkeypatch.setenv("TPPO_TLS_CA", files["TPPO_TLS_CA"])
        assert invitation(address, TOKEN).redis_url == "rediss://run:7000/0"


@pytest.mark.parametrize(
    ("overrides", "expected"), [([], None), (["generation.python=/own/python"], Path("/own/python"))]
)
def test_the_interpreter_is_this_machines_own(model: Path, overrides: list[str], expected: Path | None) -> None:
    config = joined_config(invited(a_run(model, generation={"python": Path("/runs/own/python")})), overrides)

    assert config.generation.python == expected


@pytest.mark.parametrize("own_host", ["10.1.2.3", "fd00::7"])
def test_on_another_machine_it_listens_where_the_learner_reaches_it(model: Path, own_host: str) -> None:
    config = joined_config(invited(a_run(model), own_host=own_host, redis_url="redis://:pw@run:7000/0"), [])

    assert config.generation.host == ("::" if ":" in own_host else "0.0.0.0")
    assert config.generation.advertise_host == own_host


@pytest.mark.parametrize(
    ("of_the_run", "own"), [("127.0.0.1", ("127.0.0.1", "")), ("10.1.2.9", ("0.0.0.0", "10.1.2.3"))]
)
def test_on_another_machine_it_is_scraped_at_its_own_address_where_the_run_is_scraped_from_others(
    model: Path, of_the_run: str, own: tuple[str, str]
) -> None:
    run = a_run(model, prometheus={"host": of_the_run, "advertise_host": "" if own[1] == "" else of_the_run})

    config = joined_config(invited(run, own_host="10.1.2.3", redis_url="redis://:pw@run:7000/0"), [])

    assert (config.prometheus.host, config.prometheus.advertise_host) == own


def test_what_the_user_sets_of_this_machine_comes_before_what_is_guessed(model: Path) -> None:
    overrides = ["generation.host=10.1.2.3", "generation.port=7777", "redis.url=redis://tunnel:1"]

    config = joined_config(invited(a_run(model), own_host="10.1.2.3"), overrides)

    assert (config.generation.host, config.generation.port) == ("10.1.2.3", 7777)
    assert config.redis.url == "redis://tunnel:1"


@pytest.mark.parametrize(
    "override", ["run.window_length=8", "learner.device=cpu", "model.critic_path=x", "algorithm.lam=1"]
)
def test_what_the_run_decides_is_refused(model: Path, override: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--set {override}: the run decides {override.partition('=')[0]}; expected one"
    ):
        joined_config(invited(a_run(model)), [override])


def test_a_redis_that_only_the_runs_machine_reaches_is_refused_without_its_password(model: Path) -> None:
    with pytest.raises(ConfigError, match="which this machine cannot reach; expected a run whose redis") as raised:
        joined_config(invited(a_run(model), own_host="10.1.2.3"), [])

    assert "pw" not in str(raised.value)


def test_a_folder_without_a_model_or_with_another_one_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.path = {tmp_path}/none: no config.json there .* --set model.path="):
        joined_config(invited(a_run(tmp_path / "none")), [])
    (model / "config.json").write_text(json.dumps({**ARCHITECTURE, "hidden_size": 64}))

    with pytest.raises(ConfigError, match=r"hidden_size is 64 in its config\.json; expected 32, as in the run's model"):
        joined_config(invited(a_run(model)), [])


def test_each_refusal_of_the_dashboard_is_one_sentence() -> None:
    with dashboard(body={}) as address:
        with pytest.raises(ConfigError, match=f"--join {address}: it refuses the token; expected the run's generation"):
            invitation(address, "another")
        with pytest.raises(ConfigError, match=f"--join {address}: the answer is no invitation"):
            invitation(address, TOKEN)
    with (
        dashboard(404, {"detail": "there is no run here"}) as address,
        pytest.raises(ConfigError, match=f"--join {address}: there is no run here; expected the dashboard of a run"),
    ):
        invitation(address, TOKEN)
    with pytest.raises(
        ConfigError, match=f"--join {address}: no answer .*refused.*; expected the address of the run's"
    ):
        invitation(address, TOKEN)


@pytest.mark.parametrize("address", ["", "ftp://run:1", "http://", "run:port", "http://run:8265/page"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected the dashboard's address, as http://HOST:8265"):
        invitation(address, TOKEN)


def test_a_token_file_holds_one_token(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(f"{TOKEN}\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert read_token(tmp_path / "good") == TOKEN
    for name, cause in (
        ("empty", "holds no token"),
        ("binary", "it is no text"),
        ("missing", "No such file or directory"),
    ):
        with pytest.raises(
            ConfigError, match=f"--token-file .*/{name}: .*{cause}; expected the run's generation token"
        ):
            read_token(tmp_path / name)


def test_without_a_file_the_token_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["--join", "http://run:8265"])
    assert "no token; expected --token-file FILE, or TPPO_GENERATION_TOKEN or TPPO_TOKEN in" in capsys.readouterr().err

    monkeypatch.setenv("TPPO_GENERATION_TOKEN", TOKEN)
    with dashboard(body={}) as address, pytest.raises(ConfigError, match="the answer is no invitation"):  # but let in
        __main__._joined(Namespace(join=address, token_file=None))
