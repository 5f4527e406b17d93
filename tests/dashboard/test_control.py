"""Commands on their way into the inbox."""

from pathlib import Path
from typing import Any

import pytest

from services.dashboard.live.source import Observation
from tests.dashboard.clients import BEARER, NOW, FixedSource, client_of
from tests.dashboard.run_folders import RunFolderBuilder
from tppo.streams import StreamsUnavailable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    RunFolderBuilder(tmp_path / "runs" / "quick")
    RunFolderBuilder(tmp_path / "runs" / "other")
    return tmp_path / "runs"


@pytest.fixture
def source() -> FixedSource:
    return FixedSource(Observation(now=NOW))


@pytest.mark.parametrize(
    ("address", "body", "command"),
    [
        ("pause", None, "PAUSE {} dashboard"),
        ("resume", None, "RESUME {} dashboard"),
        ("checkpoint", None, "CHECKPOINT {} dashboard"),
        ("stop-after-step", None, "STOP_AFTER_STEP {} dashboard"),
        ("stop-after-step", {"step": 7}, "STOP_AFTER_STEP {'step': 7} dashboard"),
        ("roll-back", {"version": 20}, "ROLL_BACK {'version': 20} dashboard"),
        ("retry-parked", {"rollouts": ["a"]}, "RETRY_PARKED {'rollouts': ['a']} dashboard"),
        ("drop-parked", {"reason": "broken"}, "DROP_PARKED {'reason': 'broken'} dashboard"),
        ("settings", {"key": "actor.lr", "value": 1e-6}, "SET {'key': 'actor.lr', 'value': 1e-06} dashboard"),
        (
            "settings",
            {"key": "run.max_policy_lag", "value": 2},
            "SET {'key': 'run.max_policy_lag', 'value': 2} dashboard",
        ),
    ],
)
async def test_a_wish_becomes_a_record_of_the_inbox(
    root: Path, source: FixedSource, address: str, body: Any, command: str
) -> None:
    async with client_of(root, source) as client:
        answer = await client.post(f"/api/v1/control/{address}", json=body, headers=BEARER)

    assert answer.status_code == 202
    assert len(answer.json()["command_id"]) == 32
    assert source.inbox == [command.encode()]


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("roll-back", None),
        ("roll-back", {"version": -1}),
        ("stop-after-step", {"stap": 3}),
        ("drop-parked", {"rollouts": ["a"]}),
        ("settings", {"key": "run.seed", "value": 1}),
        ("settings", {"key": "actor.lr", "value": 0}),
        ("settings", {"key": "run.max_policy_lag", "value": 1.5}),
        ("settings", {"key": "actor.lr", "value": "NaN"}),
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(root: Path, source: FixedSource, address: str, body: Any) -> None:
    async with client_of(root, source) as client:
        answer = await client.post(f"/api/v1/control/{address}", json=body, headers=BEARER)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert source.inbox == []


async def test_a_run_that_is_read_from_its_folder_cannot_be_steered(root: Path, source: FixedSource) -> None:
    async with client_of(root) as folder_only, client_of(root, source) as beside_the_live_run:
        answers = [
            await folder_only.post("/api/v1/control/pause", headers=BEARER),
            await beside_the_live_run.post("/api/v1/control/pause?run=other", headers=BEARER),
        ]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert "read from its folder alone" in answers[0].json()["detail"]


async def test_a_redis_that_is_away_is_told(root: Path) -> None:
    async with client_of(root, FixedSource(StreamsUnavailable("refused"))) as client:
        answer = await client.post("/api/v1/control/pause", headers=BEARER)

    assert (answer.status_code, answer.json()["detail"]) == (503, "Redis does not answer: refused")
