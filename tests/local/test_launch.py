"""The run folder at the start of `tppo run`."""

import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from services.local.launch import (
    dashboard_socket,
    description,
    locked,
    plan_of,
    prepare,
    report_ending,
    why_nothing_is_left,
)
from services.local.metrics import RunMetrics, read_metrics
from services.local.processes import Plan
from services.local.results import summarize
from services.local.supervision.child import Ending
from tests.support.damage import DAMAGES
from tppo.config import Config, ConfigError
from tppo.config.sections.services import DASHBOARD_PORTS
from tppo.generation_totals import GenerationTotals
from tppo.run_folder.ending import EndingKind
from tppo.run_folder.paths import RunPaths


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    refusal = rf"already training in PID {os.getpid()}; use another run\.name"

    with locked(paths), pytest.raises(ConfigError, match=refusal), locked(paths):
        pass

    with locked(paths):
        pass


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_folder_whose_lock_holds_garbage_belongs_to_one_run_at_a_time(tmp_path: Path, kind: str) -> None:
    paths = RunPaths(tmp_path / "run")

    with locked(paths):
        paths.lock.write_bytes(DAMAGES[kind](b"12345\n"))
        with pytest.raises(ConfigError, match=r"already training in PID .*; use another run\.name"), locked(paths):
            pass


def test_a_new_run_removes_an_earlier_attempt_and_a_resumed_one_keeps_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    prepare(paths, resume=False)
    paths.metrics.write_text(json.dumps({"kind": "step", "step": 1}) + "\n")
    (paths.redis / "appendonly.aof").write_text("old")
    paths.responses.mkdir()

    prepare(paths, resume=True)
    assert len(read_metrics(paths.metrics).steps) == 1
    assert list(paths.redis.iterdir())

    prepare(paths, resume=False)
    assert not paths.metrics.exists()
    assert not list(paths.redis.iterdir())
    assert not paths.responses.exists()  # its rollouts bear the names of those to come


def a_run_at_its_last_step(folder: Path, ending: str) -> Config:
    config = config_in(folder, run={"directory": folder, "total_training_steps": 60})
    checkpoint = config.run.path / "checkpoints" / "global_step_60"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    (checkpoint.parent / "latest").write_text("global_step_60")
    summary = summarize(RunMetrics(), GenerationTotals(), seconds_total=1.0)
    (config.run.path / "summary.json").write_text(json.dumps(asdict(summary) | {"ending": ending}))
    return config


def test_a_server_that_the_environment_names_takes_the_place_of_an_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = a_run_at_its_last_step(tmp_path, "finished")
    assert plan_of(config, resume=False).server is not None

    monkeypatch.setenv("TPPO_REDIS_URL", "redis://:hidden@elsewhere:7000/0")
    plan = plan_of(config, resume=False)

    assert (plan.server, plan.redis_url) == (None, "redis://:hidden@elsewhere:7000/0")
    assert "hidden" not in "".join(description(plan))


def test_a_resume_of_a_finished_run_says_how_to_train_further(tmp_path: Path) -> None:
    config = a_run_at_its_last_step(tmp_path, "finished")

    sentence = why_nothing_is_left(config)

    for part in (
        f"{config.run.path} has finished: all of its 60 training steps",
        f"{config.run.path}/checkpoints/global_step_60; nothing was started",
        f"tppo run {config.run.path}/config.toml --resume --set run.total_training_steps=N, with N above 60",
        f"tppo dashboard {tmp_path}/",
    ):
        assert part in sentence


@pytest.mark.parametrize("ending", ["running", "interrupted", "gave up"])
def test_a_run_that_ended_within_its_last_evaluation_is_resumed(tmp_path: Path, ending: str) -> None:
    assert why_nothing_is_left(a_run_at_its_last_step(tmp_path, ending)) == ""


def test_a_finished_run_that_is_to_be_longer_is_resumed(tmp_path: Path) -> None:
    a_run_at_its_last_step(tmp_path, "finished")
    longer = config_in(tmp_path, run={"directory": tmp_path, "total_training_steps": 61})

    assert why_nothing_is_left(longer) == ""


def config_in(folder: Path, **sections: object) -> Config:
    table = {"run": {"directory": folder}, "model": {"path": folder}, "data": {"train_files": [folder]}}
    return Config.model_validate(table | sections)


def test_a_second_run_gets_the_next_port_for_its_dashboard(tmp_path: Path) -> None:
    with dashboard_socket(config_in(tmp_path)) as one, dashboard_socket(config_in(tmp_path)) as another:
        ports = [opened.getsockname()[1] for opened in (one, another)]

    assert ports[0] < ports[1]
    assert set(ports) <= set(DASHBOARD_PORTS)


def test_the_dashboard_leaves_configured_ports_to_their_processes(tmp_path: Path) -> None:
    ports = {"port": DASHBOARD_PORTS[0], "replicas": 2}

    with dashboard_socket(config_in(tmp_path, generation=ports)) as opened:
        assert opened.getsockname()[1] >= DASHBOARD_PORTS[2]


def test_a_configured_dashboard_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with dashboard_socket(config_in(tmp_path, dashboard={"port": 0})) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"^dashboard\.port = {port}: cannot listen"):
            dashboard_socket(config_in(tmp_path, dashboard={"port": port}))


@pytest.mark.parametrize("kind", [EndingKind.FINISHED, EndingKind.GAVE_UP, EndingKind.INTERRUPTED])
def test_an_ended_run_names_the_command_that_shows_it(tmp_path: Path, kind: EndingKind) -> None:
    config = config_in(tmp_path / "my runs")
    plan = Plan(config=config, paths=RunPaths(config.run.path), resume=False, redis_url="", server=None)
    summary = summarize(RunMetrics(), GenerationTotals(), seconds_total=1.0)
    output = io.StringIO()

    report_ending(plan, Ending(kind), summary, Console(file=output, width=400))

    assert f"tppo dashboard '{tmp_path}/my runs'/" in output.getvalue()
