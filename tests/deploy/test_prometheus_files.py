"""Alerts and panels use metrics, labels and label values that the services export."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import promql_parser
import pytest
import yaml
from prometheus_client import ProcessCollector

from services.dashboard.live.situation import Severity
from services.dashboard.live.status import RunState
from tests.deploy.prometheus_documents import DOCS, known_labels
from tppo.config.sections.services import DASHBOARD_PORTS
from tppo.rollout import ScoreStatus

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRAPES = ("prometheus.yml", "compose.yml")
OF_A_TARGET = {"job", "instance", "kind"}
LABELS = {
    **{name: labels | OF_A_TARGET for name, labels in known_labels().items()},
    **{family.name: OF_A_TARGET for family in ProcessCollector(registry=None).collect()},
    "process_cpu_seconds_total": OF_A_TARGET,
    "up": OF_A_TARGET,  # Prometheus' own
}
VALUES = {
    ("tppo_run_state", "state"): set(get_args(RunState)),
    ("tppo_run_alerts", "severity"): set(get_args(Severity)),
    ("tppo_reward_scores_total", "status"): {status.name.lower() for status in ScoreStatus},
    ("tppo_queue_waiting_requests", "queue"): {"window_requests", "reward_requests"},
}


class Query(NamedTuple):
    """An expression, and the labels that the text beside it names."""

    where: str
    expression: str
    named: frozenset[str]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "tppo.json").read_text())
    return content


def queries() -> Iterator[Query]:
    for rule in alerts():
        named = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        yield Query(rule["alert"], rule["expr"], frozenset(named))
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            named = re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])
            yield Query(panel["title"], target["expr"], frozenset(named))


QUERIES = list(queries())
every_query = pytest.mark.parametrize("query", QUERIES, ids=[query.where for query in QUERIES])


def parts(node: Any) -> Iterator[Any]:
    """The node and all below it."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (below := getattr(node, name, None)) is not None:
            yield from parts(below)
    for below in getattr(node, "args", ()):
        yield from parts(below)


def selectors(expression: str) -> list[Any]:
    return [part for part in parts(promql_parser.parse(expression)) if isinstance(part, promql_parser.VectorSelector)]


def grouped_by(expression: str) -> set[str]:
    """The labels behind by, on and group_left."""
    found: set[str] = set()
    for part in parts(promql_parser.parse(expression)):
        modifier = getattr(part, "modifier", None)
        for source in (modifier, getattr(modifier, "matching", None)):
            found.update(getattr(source, "labels", None) or ())
        found.update(getattr(modifier, "group_labels", None) or ())
    return found


@every_query
def test_every_metric_in_a_query_is_exported(query: Query) -> None:
    names = [selector.name for selector in selectors(query.expression)]

    assert names
    assert [name for name in names if name not in LABELS] == []


@every_query
def test_every_label_in_a_query_exists(query: Query) -> None:
    found = selectors(query.expression)
    for selector in found:
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked - LABELS[selector.name] == set()
    for label in grouped_by(query.expression) | query.named:
        assert any(label in LABELS[selector.name] for selector in found), label


@every_query
def test_every_label_value_in_a_query_is_exported(query: Query) -> None:
    for selector in selectors(query.expression):
        for matcher in selector.matchers.matchers:
            known = VALUES.get((selector.name, matcher.name))
            values = set(str(matcher.value).split("|"))
            assert known is None or values <= known


@every_query
def test_a_rate_is_taken_of_counters_and_of_nothing_else(query: Query) -> None:
    calls = [part for part in parts(promql_parser.parse(query.expression)) if isinstance(part, promql_parser.Call)]
    rates = [call for call in calls if call.func.name in ("rate", "increase")]
    in_rates = [part for call in rates for part in selectors_below(call)]

    assert [one.name for one in in_rates if not one.name.endswith("_total")] == []
    assert [one.name for one in selectors(query.expression) if one.name.endswith("_total")] == [
        one.name for one in in_rates
    ]


def selectors_below(node: Any) -> list[Any]:
    return [part for part in parts(node) if isinstance(part, promql_parser.VectorSelector)]


def test_the_check_finds_a_metric_and_a_label_that_nothing_exports() -> None:
    expression = (
        'sum by (planet) (rate(tppo_nonsense_total{colour="red"}[5m])) / on (run) group_left (moon) max(tppo_step)'
    )

    assert [selector.name for selector in selectors(expression)] == ["tppo_nonsense_total", "tppo_step"]
    assert grouped_by(expression) == {"planet", "run", "moon"}
    assert [matcher.name for matcher in selectors(expression)[0].matchers.matchers] == ["colour"]


def test_every_alert_has_its_section_in_the_documents_and_every_section_its_alert() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")

    sections = re.findall(r"^### (Tppo\w+)\n\n(.*?)(?=\n#|\Z)", text, re.MULTILINE | re.DOTALL)

    assert [name for name, _ in sections] == [rule["alert"] for rule in alerts()]
    assert [name for name, words in sections if len(words.split()) < 25] == []


def test_every_alert_says_what_is_the_matter_and_how_bad_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in alerts()} == {"warning", "critical"}
    assert all(rule["annotations"]["summary"].endswith(".") for rule in alerts())


def test_the_runs_to_choose_from_come_from_a_metric_that_is_exported() -> None:
    variable = next(one for one in dashboard()["templating"]["list"] if one["name"] == "run")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]

    assert label in LABELS[metric]


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    taken = [
        (panel["gridPos"]["y"] + row, panel["gridPos"]["x"] + column)
        for panel in panels
        for row in range(panel["gridPos"]["h"])
        for column in range(panel["gridPos"]["w"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(taken)) == len(taken)
    assert max(column for _, column in taken) < 24


@pytest.mark.parametrize("name", SCRAPES)
def test_prometheus_finds_the_rules_and_the_dashboard(name: str) -> None:
    content = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    own, others = content["scrape_configs"]

    assert [(DEPLOY / "prometheus" / rules).is_file() for rules in content["rule_files"]] == [True]
    (address,) = own["static_configs"][0]["targets"]
    assert address.endswith(f":{DASHBOARD_PORTS[0]}")
    assert others["http_sd_configs"][0]["url"] == f"http://{address}/api/v1/scrape-targets"


def test_grafana_is_given_the_prometheus_of_the_compose_file() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tppo.yml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    assert source["url"] == "http://prometheus:9090"
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "./deploy/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]


@pytest.mark.parametrize("name", SCRAPES)
def test_scrapes_bring_the_metrics_token_and_never_the_one_that_steers(name: str) -> None:
    text = (DEPLOY / "prometheus" / name).read_text()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

    assert set(re.findall(r"credentials_file: (\S+)", text)) == {"/run/secrets/metrics_token"}
    assert compose["secrets"]["metrics_token"] == {"file": "${TPPO_SECRETS:?see .env.example}/metrics_token"}
    assert compose["services"]["prometheus"]["secrets"] == ["metrics_token"]
    assert compose["services"]["grafana"]["secrets"] == ["grafana_password"]


@pytest.mark.parametrize("name", SCRAPES)
def test_every_scrape_and_the_discovery_name_their_scheme(name: str) -> None:
    content = (DEPLOY / "prometheus" / name).read_text().replace("# authorization:", "authorization:")
    own, others = yaml.safe_load(content)["scrape_configs"]

    for one in (own, others, *others["http_sd_configs"]):
        assert one["authorization"]["type"] == "Bearer"
