"""Each mistake earns one sentence before anything starts."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from services.local import preflight
from tests.support.processes import QUICKSTART, REPOSITORY
from tests.support.redis_server import StartRedis
from tppo.__main__ import main
from tppo.config import Config, ConfigError, load
from tppo.config.schema import ModelSection
from tppo.run_folder.paths import RunPaths


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def config_with(model: Path, **sections: Mapping[str, object]) -> Config:
    table = {"model": {"path": model}, "data": {"train_files": [model / "data.jsonl"]}}
    return Config.model_validate(table | sections)


def refused(check: Callable[[], object]) -> list[str]:
    """The sentence with which a check refuses, if it does."""
    try:
        check()
    except ConfigError as error:
        return [str(error)]
    return []


def test_a_complete_model_folder_passes(model: Path) -> None:
    problems = refused(lambda: preflight.check_model(ModelSection(path=model, critic_path=model)))

    assert problems == []


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path = .*nowhere: no such folder"):
        preflight.check_model(ModelSection(path=tmp_path / "nowhere"))


def test_a_name_of_the_hub_is_answered_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tppo download Qwen/Qwen3-0\.6B \(or: hf download Qwen/Qwen3-0\.6B --local-dir"
    ):
        preflight.check_model(ModelSection(path=tmp_path / "Qwen" / "Qwen3-0.6B"))


def test_a_model_folder_without_configuration_is_named(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"model\.path = .*: no config\.json"):
        preflight.check_model(ModelSection(path=model))


def test_a_model_folder_without_tokenizer_is_named(model: Path) -> None:
    (model / "tokenizer.json").rename(model / "tokenizer_config.json")  # which says how, but not what
    with pytest.raises(ConfigError, match=r"model\.path = .*: no tokenizer"):
        preflight.check_model(ModelSection(path=model))


def test_a_missing_critic_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.critic_path = .*critic: no such folder"):
        preflight.check_model(ModelSection(path=model, critic_path=tmp_path / "critic"))


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_files: no such file .*val\.jsonl"):
        preflight.check_data_files([tmp_path / "val.jsonl"], key="data.val_files")


def test_a_dashboard_port_in_use_is_named(model: Path, taken_port: int) -> None:
    with pytest.raises(ConfigError, match=rf"dashboard\.port = {taken_port}: cannot listen on 127\.0\.0\.1"):
        preflight.check_ports(config_with(model, dashboard={"port": taken_port}))


def test_metrics_beyond_the_loopback_need_the_token_of_those_who_scrape(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with(model, prometheus={"host": "0.0.0.0"})

    monkeypatch.setenv("TPPO_METRICS_TOKEN", "secret")
    assert refused(lambda: preflight.check_hosts(config)) == []

    monkeypatch.setenv("TPPO_TOKEN", "another token")
    monkeypatch.delenv("TPPO_METRICS_TOKEN")
    with pytest.raises(ConfigError, match=r"^prometheus\.host = '0\.0\.0\.0' is reachable .* TPPO_METRICS_TOKEN"):
        preflight.check_hosts(config)


@pytest.mark.parametrize("section", ["dashboard", "generation", "endpoint", "reward"])
def test_an_address_beyond_the_loopback_needs_the_token(
    model: Path, section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with(model, **{section: {"host": "0.0.0.0"}})

    for variable in ("TPPO_TOKEN", f"TPPO_{section.upper()}_TOKEN"):
        monkeypatch.setenv(variable, "secret")
        assert refused(lambda: preflight.check_hosts(config)) == []
        monkeypatch.delenv(variable)
    with pytest.raises(ConfigError, match=rf"^{section}\.host = '0\.0\.0\.0' is reachable .* TPPO_TOKEN"):
        preflight.check_hosts(config)


@pytest.mark.parametrize("section", ["dashboard", "generation", "endpoint", "reward", "prometheus"])
@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])  # of RFC 5737 and RFC 2606: nobody's
def test_an_address_that_is_not_of_this_machine_is_named(
    model: Path, section: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("TPPO_TOKEN", "TPPO_METRICS_TOKEN"):
        monkeypatch.setenv(variable, "secret")

    with pytest.raises(
        ConfigError, match=rf"^{section}\.host = '{host}': cannot listen there: .*; expected an address"
    ):
        preflight.check_hosts(config_with(model, **{section: {"host": host}}))


def test_the_port_of_every_process_with_metrics_is_checked_unless_there_are_none(model: Path) -> None:
    settings = {"dashboard": {"port": 0}, "generation": {"replicas": 2}}

    ports = preflight.named_ports(config_with(model, **settings, prometheus={"port": 9400}))
    none = preflight.named_ports(config_with(model, **settings, prometheus={"port": 9400, "enabled": False}))

    assert [(port.key, port.number) for port in ports] == [("prometheus.port", 9400 + n) for n in range(4)]
    assert none == []


def test_the_endpoint_of_every_generator_has_a_port_unless_it_is_switched_off(model: Path) -> None:
    settings = {"dashboard": {"port": 0}, "generation": {"replicas": 2}}

    ports = preflight.named_ports(config_with(model, **settings, endpoint={"port": 9000}))
    none = preflight.named_ports(config_with(model, **settings, endpoint={"port": 9000, "enabled": False}))

    assert [(port.key, port.number) for port in ports] == [("endpoint.port", 9000), ("endpoint.port", 9001)]
    assert none == []


def test_a_port_that_no_process_can_have_is_named(model: Path) -> None:
    settings = {"dashboard": {"port": 0}, "generation": {"replicas": 2}}
    with pytest.raises(ConfigError, match=r"^prometheus\.port = 65536: expected at most 65535"):
        preflight.check_ports(config_with(model, **settings, prometheus={"port": 65535, "host": "127.0.0.1"}))


@pytest.mark.parametrize(
    ("sections", "keys", "number"),
    [
        (
            {"generation": {"port": 9000}, "reward": {"port": 9000}},
            "generation.port = 9000 and reward.port = 9000",
            9000,
        ),
        (
            {"generation": {"port": 9000, "replicas": 2}, "reward": {"port": 9001}},
            "generation.port = 9000 and reward.port = 9001",
            9001,
        ),
        (
            {"dashboard": {"port": 9002}, "prometheus": {"port": 9000}},  # of generation-0, reward-0 and the learner
            "dashboard.port = 9002 and prometheus.port = 9000",
            9002,
        ),
        (
            {"dashboard": {"port": 9000, "host": "0.0.0.0"}, "reward": {"port": 9000, "host": "localhost"}},
            "dashboard.port = 9000 and reward.port = 9000",
            9000,
        ),
    ],
)
def test_two_services_with_one_port_are_refused_by_both_keys(
    model: Path, sections: dict[str, Mapping[str, object]], keys: str, number: int
) -> None:
    config = config_with(model, **({"dashboard": {"port": 0}} | sections))

    with pytest.raises(ConfigError, match=rf"^{keys}: two processes would listen on port {number}, "):
        preflight.check_ports(config)


def test_one_port_at_two_addresses_of_the_machine_is_no_contradiction(model: Path) -> None:
    sections = {"generation": {"port": 9000, "host": "127.0.0.1"}, "reward": {"port": 9000, "host": "127.0.0.2"}}

    assert refused(lambda: preflight.check_ports(config_with(model, dashboard={"port": 0}, **sections))) == []


def test_the_configured_port_of_every_generator_is_checked(model: Path) -> None:
    generation = {"port": 9000, "replicas": 2, "host": "10.0.0.1"}

    ports = preflight.named_ports(config_with(model, generation=generation, dashboard={"port": 0}))

    assert [(port.key, port.host, port.number) for port in ports] == [
        ("generation.port", "10.0.0.1", 9000),
        ("generation.port", "10.0.0.1", 9001),
    ]


def test_a_redis_that_does_not_answer_is_named(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"redis\.url = 'redis://127\.0\.0\.1:1': no answer"):
        preflight.check_redis(config_with(model, redis={"url": "redis://127.0.0.1:1"}))


def test_a_malformed_redis_address_is_named(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"redis\.url = 'localhost': "):
        preflight.check_redis(config_with(model, redis={"url": "localhost"}))


def test_an_embedded_redis_too_small_for_the_windows_that_are_out_is_named(model: Path) -> None:
    """2 * 16 windows out: 4 bytes for each of 100 + 412 tokens, and 8 for each of 128 new ones, are 96 KiB."""
    run = {
        "mode": "streaming", "max_policy_lag": 1, "rollouts_per_step": 16, "max_prompt_length": 100,
        "max_response_length": 412, "window_length": 128,
    }  # fmt: skip

    with pytest.raises(ConfigError, match=r"^redis\.memory_limit_mb = 8: up to 32 windows are out, .* expected 9 MiB"):
        preflight.check_memory(config_with(model, run=run, redis={"memory_limit_mb": 8}))
    assert refused(lambda: preflight.check_memory(config_with(model, run=run, redis={"memory_limit_mb": 9}))) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--maxmemory", "3mb"], r"the server's maxmemory is 3 MiB; expected \d+ MiB or more, or 0"),
        (["--maxmemory", "2gb", "--maxmemory-policy", "allkeys-lru"], "is allkeys-lru, which deletes keys; expected"),
    ],
)
def test_a_server_that_would_lose_records_or_take_none_is_refused(
    model: Path, start_redis: StartRedis, tmp_path: Path, options: list[str], expected: str
) -> None:
    with start_redis(tmp_path / "redis", *options) as server, pytest.raises(ConfigError, match=expected):
        preflight.check_redis(config_with(model, redis={"url": server.url}))


def test_a_run_that_has_checkpoints_is_not_started_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/latest").write_text("global_step_20")
    with pytest.raises(ConfigError, match=r"continue it by --resume, .* run\.name=NAME, or remove"):
        preflight.check_run_folder(RunPaths(tmp_path), resume=False)


@pytest.mark.parametrize("place", ["a file", "a file/deeper", "a file/deeper still/runs"])
def test_a_run_whose_folder_cannot_be_made_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").touch()

    with pytest.raises(ConfigError) as caught:
        preflight.check_run_folder(RunPaths(tmp_path / place / "mine"), resume=False)

    assert str(caught.value) == (
        f"run.directory = '{tmp_path / place}': '{tmp_path}/a file' is no folder; expected a place for the folder mine"
    )


def test_a_resume_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resume: no checkpoint in"):
        preflight.check_run_folder(RunPaths(tmp_path), resume=True)


def test_the_last_line_of_a_checking_process_becomes_the_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^[^:]*config\.toml: .*"):
        preflight.check_with_processes(tmp_path / "config.toml")


@pytest.mark.process
def test_skipped_prompts_are_noted_before_a_run_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": digits, "data_source": "iterated_map", "reward_model": {"ground_truth": "4"}}
        for digits in ("1" * 99, "12")
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"dashboard.port": 0, "data.train_files": [str(file)], "data.val_files": []}
    options = [f"--set={key}={value}" for key, value in settings.items()]

    assert main(["run", str(QUICKSTART), "--dry-run", *options]) == 2
    assert "data.train_files: 1 of 2 prompts is longer" in capsys.readouterr().err
    assert main(["run", str(QUICKSTART), "--dry-run", *options, "--set=data.overlong_prompts=skip"]) == 0
    assert "\n# warning: data.train_files: 1 of 2 prompts is longer" in capsys.readouterr().out


@pytest.mark.process
def test_a_reward_function_that_raises_is_refused_before_a_run_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = tmp_path / "mine.py"
    function.write_text("def compute_score(**columns): raise KeyError('boom')")
    options = ["--set=dashboard.port=0", f"--set=reward.functions.iterated_map={function}:compute_score"]

    assert main(["run", str(QUICKSTART), "--dry-run", *options]) == 2

    assert capsys.readouterr().err.startswith(
        f"tppo run: [reward] {function}:compute_score: no score for the first row of data_source 'iterated_map'"
    )


def test_a_refusal_leaves_nothing_behind(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f"[run]\ndirectory = {json.dumps(str(tmp_path / 'runs'))}\n"
        f'[model]\npath = "model"\n[data]\ntrain_files = ["missing.jsonl"]\n'
    )

    assert main(["run", str(config)]) == 2

    assert capsys.readouterr().err.startswith("tppo run: data.train_files: no such file")
    assert not (tmp_path / "runs").exists()


def test_the_memory_that_redis_needs_for_the_quick_start_is_what_the_operations_page_says() -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")

    assert f"The quick start needs {preflight.needed_memory_mb(load(QUICKSTART))} MiB" in page
