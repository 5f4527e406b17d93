"""Prometheus' view of a real run: found through the dashboard, scraped from every process, and all of it documented."""

import json
import re
import urllib.request
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.prometheus_documents import COMMON, SERVICES, documented, names_of_lines
from tests.support.quickstart_run import NEVER_ENDS, Run
from tests.support.waiting import DEADLINE_SECONDS

NAMES_OF_STEPS = {"tppo_timing_s_step", "tppo_eval_accuracy", "tppo_actor_ppo_kl"}
GROUP = re.compile(r"_k_(to|\d+_to|above)_\d+$")  # the quick start's evaluation groups
ONLY_WITH_USERS_PROCESSES = {"tppo_reward_waiting_responses"}
ONLY_WITH_SEVERAL_RANKS = {"tppo_rank_heartbeat_age_seconds", "tppo_rank_memory_bytes"}
"""Of them: tests/learner/reporting/test_learner_prometheus.py."""


def fetched(address: str) -> str:
    with urllib.request.urlopen(address, timeout=DEADLINE_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


def exported_names(address: str) -> set[str]:
    """Of samples; those that `prometheus_client` exports of every process are left out."""
    families = text_string_to_metric_families(fetched(f"http://{address}/metrics"))
    return {one.name for family in families for one in family.samples if one.name.startswith("tppo_")}


def scrape_all(run: Run) -> Mapping[str, set[str]]:
    """The names that each kind of process exports."""
    found = re.search(r"dashboard at http://([^/\s]+)", (run.folder / "logs" / "dashboard.log").read_text())
    assert found
    dashboard = found[1]
    targets = json.loads(fetched(f"http://{dashboard}/api/v1/scrape-targets"))
    exported = {one["labels"]["kind"]: exported_names(one["targets"][0]) for one in targets}
    return exported | {"dashboard": exported_names(dashboard)}


def documented_names() -> Mapping[str, set[str]]:
    """The names that each kind of process exports at least."""
    names = {section: {row.name for row in documented(section)} for section in SERVICES}
    common = {row.name for row in documented(COMMON)}
    return {
        "generation": names["Generation"] | common,
        "reward": (names["Reward"] | common) - ONLY_WITH_USERS_PROCESSES,
        "dashboard": names["Dashboard"],
        "learner": (names["Learner"] | common | NAMES_OF_STEPS) - ONLY_WITH_SEVERAL_RANKS,
    }


def test_every_process_exports_what_the_documents_say(start: Callable[..., Run]) -> None:
    run = start(**NEVER_ENDS, **{"trackers.tensorboard": "true"})
    run.wait_for_step(1)
    expected = documented_names()
    exported: dict[str, set[str]] = {}

    def missing() -> Mapping[str, set[str]]:
        exported.update(scrape_all(run))
        return {kind: names - exported.get(kind, set()) for kind, names in expected.items()}

    run.wait_for(missing, "every documented metric", is_met=lambda names: not any(names.values()))
    surplus = {kind: names - expected[kind] for kind, names in exported.items()}

    of_lines = {GROUP.sub("_GROUP", name) for name in surplus.pop("learner")}
    assert of_lines - names_of_lines() == set()
    assert surplus == {"generation": set(), "reward": set(), "dashboard": set()}
