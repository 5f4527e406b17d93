"""Commands on their way into the inbox."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.dashboard.live.source import Observation
from tests.dashboard.clients import BEARER, NOW, FixedSource, client_of
from tests.dashboard.run_folders import RunFolderBuilder
from tppo.rollout import Action
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
    ("address", "body", "action", "arguments"),
    [
        ("pause", None, Action.PAUSE, {}),
        ("resume", None, Action.RESUME, {}),
        ("checkpoint", None, Action.CHECKPOINT, {}),
        ("stop-after-step", None, Action.STOP_AFTER_STEP, {}),
        ("stop-after-step", {"step": 7}, Action.STOP_AFTER_STEP, {"step": 7}),
        ("roll-back", {"version": 20}, Action.ROLL_BACK, {"version": 20}),
        ("retry-parked", {"rollouts": ["a"]}, Action.RETRY_PARKED, {"rollouts": ["a"]}),
        ("retry-parked", {"cause": "b: c"}, Action.RETRY_PARKED, {"cause": "b: c"}),
        ("drop-parked", {"cause": "b", "reason": "c"}, Action.DROP_PARKED, {"cause": "b", "reason": "c"}),
        ("drop-parked", {"reason": "broken"}, Action.DROP_PARKED, {"reason": "broken"}),
        ("settings", {"key": "actor.lr", "value": 1e-6}, Action.SET, {"key": "actor.lr", "value": 1e-06}),
        (
            "settings",
            {"key": "run.max_policy_lag", "value": 2},
            Action.SET,
            {"key": "run.max_policy_lag", "value": 2},
        ),
    ],
)
async def test_a_request_becomes_a_command_in_the_inbox(
    root: Path, source: FixedSource, address: str, body: Any, action: Action, arguments: dict[str, Any]
) -> None:
    async with client_of(root, source) as client:
        answer = await client.post(f"/api/v1/control/{address}", json=body, headers=BEARER)

    assert answer.status_code == 202
    (command,) = source.inbox
    assert answer.json() == {"command_id": command.command_id}
    assert (command.action, command.issued_by) == (action, "dashboard")
    assert {key: json.loads(value) for key, value in command.arguments.items()} == arguments


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("roll-back", None),
        ("roll-back", {"version": -1}),
        ("stop-after-step", {"stap": 3}),
        ("drop-parked", {"rollouts": ["a"]}),
        ("retry-parked", {"rollouts": ["a"], "cause": "b"}),
        ("retry-parked", {"cause": ""}),
        ("settings", {"key": "run.seed", "value": 1}),
        ("settings", {"key": "actor.lr", "value": 0}),
        ("settings", {"key": "run.max_policy_lag", "value": 1.5}),
        ("settings", {"key": "actor.lr", "value": "NaN"}),
    ],
)
async def test_a_request_with_a_wrong_body_is_refused(root: Path, source: FixedSource, address: str, body: Any) -> None:
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


async def test_without_redis_a_request_is_answered_with_503(root: Path) -> None:
    async with client_of(root, FixedSource(StreamsUnavailable("refused"))) as client:
        answer = await client.post("/api/v1/control/pause", headers=BEARER)

    assert (answer.status_code, answer.json()["detail"]) == (503, "Redis does not answer: refused")
