"""The dashboard's own metrics, and where it says that those of the others are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.dashboard.api.access import Access
from services.dashboard.live.source import Observation
from tests.dashboard.clients import BEARER, NOW, TOKEN, FixedSource, answer_of, client_of, process
from tests.dashboard.run_folders import RunFolderBuilder, complete_run, step_line
from tppo.streams import QueueDepth
from tppo.streams.contract import DeadLetterCount

LEDGER = {"issued": 10, "trained": 6, "in_flight": 2, "parked": 1, "dropped": 1, "holds": True, "rejected_records": 3}
Key = tuple[str, ...]


async def scrape(root: Path, source: FixedSource | None = None, **headers: str) -> httpx.Response:
    async with client_of(root, source) as client:
        return (await client.get("/metrics", headers=headers)).raise_for_status()


def values(answer: httpx.Response) -> dict[Key, float]:
    """By name and own labels, run and service left out."""
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label not in ("run", "service"))): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def a_live_run(root: Path, **observed: Any) -> FixedSource:
    RunFolderBuilder(root / "quick").metrics(step_line(1), step_line(2))
    learner = process("learner", ledger=LEDGER, metrics_address="127.0.0.1:9001")
    generator = process("generation", seconds_ago=60, metrics_address="gpu-1:9002")
    return FixedSource(
        Observation(
            now=NOW,
            presences=[learner, generator, process("dashboard")],
            window_requests=QueueDepth(num_waiting=3, num_leased=4),
            num_inbox_entries=5,
            dead_letters=DeadLetterCount(num_kept=1000, num_dropped=7),
            **observed,
        )
    )


async def test_a_live_run_has_all_metrics(root: Path) -> None:
    answer = await scrape(root, a_live_run(root))

    exposed = values(answer)
    assert answer.headers["content-type"].startswith("text/plain")
    assert exposed["tppo_step",] == 2
    assert [exposed[f"tppo_ledger_{name}",] for name in LEDGER] == [10, 6, 2, 1, 1, 1, 3]
    assert (exposed["tppo_run_state", "running"], exposed["tppo_run_state", "redis_gone"]) == (1, 0)
    assert exposed["tppo_queue_waiting_requests", "window_requests"] == 3
    assert exposed["tppo_queue_leased_requests", "window_requests"] == 4
    assert (exposed["tppo_inbox_entries",], exposed["tppo_redis_up",]) == (5, 1)
    assert (exposed["tppo_dead_letters",], exposed["tppo_dead_letters_dropped",]) == (1000, 7)
    assert (
        exposed["tppo_process_up", "learner", "learner-0"],
        exposed["tppo_process_up", "generation", "generation-0"],
    ) == (
        1,
        0,
    )
    assert exposed["tppo_process_silent_seconds", "generation", "generation-0"] == 60
    assert 'run="quick",service="dashboard"' in answer.text


async def test_without_redis_its_last_answer_is_exposed(root: Path) -> None:
    exposed = values(await scrape(root, a_live_run(root, error="connection refused")))

    assert (exposed["tppo_redis_up",], exposed["tppo_run_state", "redis_gone"]) == (0, 1)
    assert (exposed["tppo_ledger_issued",], exposed["tppo_run_alerts", "error"]) == (10, 1)


async def test_without_a_run_the_process_itself_is_exposed(root: Path) -> None:
    exposed = values(await scrape(root))

    assert {name for name, *_ in exposed if name.startswith("tppo_")} == set()


async def test_a_finished_run_is_exposed_from_its_folder(root: Path) -> None:
    complete_run(root / "quick")

    exposed = values(await scrape(root))

    assert exposed["tppo_run_state", "finished"] == 1
    assert ("tppo_redis_up",) not in exposed
    assert "tppo_queue_waiting_requests" not in {name for name, *_ in exposed}


async def test_a_process_without_a_heartbeat_for_a_day_is_left_out(root: Path) -> None:
    RunFolderBuilder(root / "quick")
    source = FixedSource(Observation(now=NOW, presences=[process("reward", seconds_ago=2 * 24 * 3600)]))

    assert "tppo_process_up" not in {name for name, *_ in values(await scrape(root, source))}


async def test_open_metrics_are_served_on_request(root: Path) -> None:
    answer = await scrape(root, Accept="application/openmetrics-text; version=1.0.0")

    assert answer.headers["content-type"].startswith("application/openmetrics-text")


async def test_a_scrape_needs_the_token_where_looking_does(root: Path) -> None:
    access = Access(token=TOKEN, needs_token_to_look=True)
    async with client_of(root, access=access) as client:
        answers = [await client.get("/metrics"), await client.get("/metrics", headers=BEARER)]

    assert [answer.status_code for answer in answers] == [401, 200]


async def test_the_other_processes_are_found_by_http_service_discovery(root: Path) -> None:
    found = await answer_of(root, "scrape-targets", a_live_run(root))

    assert found == [
        {"targets": ["127.0.0.1:9001"], "labels": {"kind": "learner"}},
        {"targets": ["gpu-1:9002"], "labels": {"kind": "generation"}},
    ]


@pytest.mark.parametrize(("error", "num_targets"), [("", 0), ("connection refused", 1)])
async def test_a_process_without_heartbeat_is_no_target_unless_redis_is_gone(
    root: Path, error: str, num_targets: int
) -> None:
    RunFolderBuilder(root / "quick")
    silent = process("reward", seconds_ago=3600, metrics_address="127.0.0.1:9003")

    found = await answer_of(root, "scrape-targets", FixedSource(Observation(now=NOW, presences=[silent], error=error)))

    assert len(found) == num_targets


async def test_the_loopback_of_another_machine_is_no_target(root: Path) -> None:
    RunFolderBuilder(root / "quick")
    addresses = ["127.0.0.1:9003", "[::1]:9003", "localhost:9003", "10.0.0.7:9003"]
    elsewhere = [replace(process("generation", metrics_address=one), host="gpu-1") for one in addresses]

    found = await answer_of(root, "scrape-targets", FixedSource(Observation(now=NOW, presences=elsewhere)))

    assert [one["targets"] for one in found] == [["10.0.0.7:9003"]]
