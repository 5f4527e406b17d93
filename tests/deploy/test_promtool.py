"""What Prometheus' own tool says of the alerts: `deploy/prometheus/alerts_test.yml` has a test of each."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_prometheus_files import DEPLOY, LABELS, SCRAPES, alerts, selectors

FOLDER = DEPLOY / "prometheus"
TESTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on PATH; Debian's package prometheus has it")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    expected = {check["alertname"] for test in TESTS for check in test["alert_rule_test"] if check.get("exp_alerts")}

    assert expected == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("test", TESTS, ids=[test["name"].partition(",")[0] for test in TESTS])
def test_the_series_of_a_test_are_those_that_processes_export(test: dict[str, Any]) -> None:
    for series in test["input_series"]:
        (selector,) = selectors(series["series"])
        names = {matcher.name for matcher in selector.matchers.matchers}
        assert names - LABELS[selector.name] == set(), series["series"]


def test_each_alert_fires_with_its_words_when_it_should_and_not_before() -> None:
    ran = promtool("test", "rules", FOLDER / "alerts_test.yml")

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_rules_are_good() -> None:
    ran = promtool("check", "rules", FOLDER / "alerts.yml")

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", SCRAPES)
def test_the_configuration_is_good_with_a_token_and_without(name: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    text = (FOLDER / name).read_text().replace("/run/secrets/metrics_token", str(token))

    for variant in {text, text.replace("# authorization:", "authorization:")}:
        (tmp_path / name).write_text(variant)
        ran = promtool("check", "config", tmp_path / name)
        assert ran.returncode == 0, ran.stdout + ran.stderr
