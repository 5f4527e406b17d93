"""docs/prometheus.md lists exactly what the services export."""

import asyncio

import pytest

from learner.reporting.prometheus import LEARNER_METRICS
from services.dashboard.api.exposed import DASHBOARD_METRICS
from services.generation.exposed import GENERATION_METRICS
from services.reward.attached.dispatch import AttachDeadlines, AttachedFunctions
from services.reward.reporting.exposed import REWARD_METRICS
from tests.deploy.prometheus_documents import COMMON, Row, documented
from tests.generation.fake_engine import FakeEngine
from tests.generation.serving import service_on
from tests.reward import test_service as reward
from tests.support.leased_worker import running
from tests.support.streams import inbox_records, memory_streams
from tppo.prometheus import Exporter
from tppo.prometheus.exposed import Exposed, Status, families
from tppo.rollout import RewardRequest, Score

TABLES = {
    "Learner": LEARNER_METRICS,
    "Generation": GENERATION_METRICS,
    "Reward": REWARD_METRICS,
    "Dashboard": DASHBOARD_METRICS,
}


@pytest.mark.parametrize("section", TABLES)
def test_every_metric_has_its_line_and_every_line_its_metric(section: str) -> None:
    exported = [Row(one.name, one.type, one.unit, one.labels, one.meaning) for one in TABLES[section]]

    assert documented(section) == exported


@pytest.mark.parametrize("section", TABLES)
def test_a_process_exports_a_name_once(section: str) -> None:
    names = [one.name for one in TABLES[section]]

    assert len(names) == len(set(names))


def test_what_every_process_exports_has_its_line() -> None:
    exporter = Exporter((), run="quick", service="learner")
    exporter.take({})
    exporter.note_heartbeat()

    own = [family for family in exporter.collect() if family.name.startswith("tppo_")]

    rows = documented(COMMON)
    assert [(family.name, family.type) for family in own] == [(row.name, row.type) for row in rows]
    assert [family.documentation for family in own] == [
        row.meaning.removesuffix(" (Not of the dashboard.)") for row in rows
    ]


@pytest.mark.parametrize(
    "exposed", {one.name: one for table in TABLES.values() for one in table}.values(), ids=lambda one: one.name
)
def test_names_end_in_their_unit_where_prometheus_has_a_word_for_it(exposed: Exposed) -> None:
    base = exposed.name.removesuffix("_total")

    assert base.endswith("_seconds") == (exposed.unit == "seconds")


def exported_names(metrics: tuple[Exposed, ...], status: Status) -> set[str]:
    found = families(metrics, status, "quick", "service")
    return {family.name + ("_total" if family.type == "counter" else "") for family in found}


async def test_a_generators_status_has_a_number_for_each() -> None:
    service = service_on(memory_streams().window_requests, FakeEngine())
    service.status()  # a speed is known from the second look on

    assert exported_names(GENERATION_METRICS, service.status()) == {one.name for one in GENERATION_METRICS}


async def test_a_reward_services_status_has_a_number_for_each() -> None:
    streams = memory_streams()
    service = reward.service_on(streams.reward_requests)
    await streams.reward_requests.put([reward.request("a"), reward.request("b")])
    async with running(service):
        await inbox_records(streams, Score, 2)
    attached = AttachedFunctions(AttachDeadlines(60, 60))
    waiting = asyncio.create_task(attached.outcome("mine", RewardRequest("c", 0, "poems", "", "", "")))
    await asyncio.sleep(0)

    names = exported_names(REWARD_METRICS, {**service.status(), "attached": attached.status()})

    waiting.cancel()
    assert names == {one.name for one in REWARD_METRICS}
