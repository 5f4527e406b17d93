"""Prometheus' view of a real run: found through the dashboard, scraped from every process, and all of it documented."""

import json
import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.test_real_processes import PATIENCE_SECONDS, Run
from tests.prometheus_documents import COMMON, SERVICES, documented, names_of_lines

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)

ONLY_WITH_USERS_PROCESSES = {"tppo_reward_waiting_responses"}


def fetched(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def names_told(address: str) -> set[str]:
    """Of samples; those that `prometheus_client` tells of every process are left out."""
    families = text_string_to_metric_families(fetched(f"http://{address}/metrics"))
    return {one.name for family in families for one in family.samples if one.name.startswith("tppo_")}


def scrape_all(run: Run) -> Mapping[str, set[str]]:
    """The names that each kind of process tells."""
    found = re.search(r"dashboard at http://([^/\s]+)", (run.folder / "logs" / "dashboard.log").read_text())
    assert found
    dashboard = found[1]
    targets = json.loads(fetched(f"http://{dashboard}/api/v1/scrape-targets"))
    told = {one["labels"]["kind"]: names_told(one["targets"][0]) for one in targets}
    return told | {"dashboard": names_told(dashboard)}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, **{"run.total_training_steps": "400", "trackers.tensorboard": "true"})
    yield run
    run.close()


def test_every_process_tells_what_the_documents_say(run: Run) -> None:
    run.wait_for_step(20)  # every process has told a heartbeat since it began to work

    told = scrape_all(run)

    common = {row.name for row in documented(COMMON)}
    names = {section: {row.name for row in documented(section)} for section in SERVICES}
    assert told["generation"] == names["Generation"] | common
    assert told["reward"] == (names["Reward"] | common) - ONLY_WITH_USERS_PROCESSES
    assert told["dashboard"] == names["Dashboard"]
    learner = names["Learner"] | common
    assert learner - told["learner"] == set()
    assert told["learner"] - learner - names_of_lines() == set()
    assert {"tppo_timing_s_step", "tppo_eval_accuracy", "tppo_actor_ppo_kl"} <= told["learner"]
