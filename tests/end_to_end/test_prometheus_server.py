"""A real Prometheus beside a real run, by the files of deploy/prometheus: it finds each process, an alert fires."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.local.redis_server import free_port
from tests.support.processes import REPOSITORY, end_now
from tests.support.quickstart_run import NEVER_ENDS, Run

FOLDER = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = "127.0.0.1:8265"


@contextmanager
def prometheus(folder: Path, dashboard: str) -> Iterator[str]:
    """Beside the run of that dashboard, with all times shortened to seconds; its address."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on PATH; Debian's package prometheus has it")
    folder.mkdir()
    content = (FOLDER / "prometheus.yml").read_text().replace(DASHBOARD, dashboard)
    (folder / "prometheus.yml").write_text(re.sub(r"(_interval): \d+s", r"\1: 1s", content))
    (folder / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 1s", (FOLDER / "alerts.yml").read_text()))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
    try:
        yield f"http://{address}"
    finally:
        end_now(process)


def answer(url: str) -> dict[str, Any]:
    """The data of an answer; nothing while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            data: dict[str, Any] = json.load(response)["data"]
    except OSError:
        return {}
    return data


def kinds_up(address: str) -> set[str]:
    targets = answer(f"{address}/api/v1/targets").get("activeTargets", [])
    return {one["labels"].get("kind", one["labels"]["job"]) for one in targets if one["health"] == "up"}


def firing(address: str) -> set[tuple[str, str]]:
    found = answer(f"{address}/api/v1/alerts").get("alerts", [])
    return {(one["labels"]["alertname"], one["labels"].get("run", "")) for one in found if one["state"] == "firing"}


def test_prometheus_finds_every_process_of_a_run_and_fires_when_the_learner_is_gone(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start(**NEVER_ENDS)
    run.wait_for_step(1)
    (dashboard,) = re.findall(r"dashboard at http://([^\s/]+)", (run.folder / "logs" / "dashboard.log").read_text())
    expected = {"tppo-dashboard", "learner", "generation", "reward"}

    with prometheus(tmp_path / "prometheus", dashboard) as address:
        run.wait_for(lambda: kinds_up(address), "all targets up", is_met=lambda seen: seen == expected)
        learner = run.process_id("learner")
        os.kill(learner, signal.SIGSTOP)
        try:
            alert = ("TppoLearnerGone", "quickstart")
            run.wait_for(lambda: firing(address), "the alert", is_met=lambda seen: alert in seen)
        finally:
            os.kill(learner, signal.SIGCONT)
