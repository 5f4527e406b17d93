"""The dashboard's addresses over an observation made up for each test."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from services.dashboard.app import create_app
from services.dashboard.source import Observation, newest_lines
from tppo.presence import Presence
from tppo.streams import QueueDepth

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
STEP = {"kind": "step", "step": 12, "reward/mean": 0.5}
EVALUATION = {"kind": "evaluation", "eval/step": 10, "eval/accuracy": 0.75}


class FixedSource:
    """Sees what it was told, or fails as it was told."""

    def __init__(self, observation: Observation | Exception) -> None:
        self._observation = observation

    async def observe(self) -> Observation:
        if isinstance(self._observation, Exception):
            raise self._observation
        return self._observation


def process(kind: str, *, seconds_ago: float = 0.5, **status: Any) -> Presence:
    return Presence(
        name=f"{kind}-0",
        kind=kind,
        address="127.0.0.1:4000",
        started_at=NOW - 100,
        pid=1,
        host="h",
        seen_at=NOW - seconds_ago,
        status=status,
    )


@asynccontextmanager
async def client_of(source: Observation | Exception, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(FixedSource(source), run="quick", total_training_steps=60, token=token)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dashboard") as client:
        yield client


async def status_of(observation: Observation) -> dict[str, Any]:
    async with client_of(observation) as client:
        answer: dict[str, Any] = (await client.get("/api/v1/status")).raise_for_status().json()
        return answer


async def test_a_running_run_tells_its_numbers() -> None:
    status = await status_of(
        Observation(
            now=NOW,
            presences=[
                process("generation", num_active=8),
                process("learner", policy_version=12, ledger={"parked": 1}),
            ],
            window_requests=QueueDepth(num_waiting=3, num_leased=32),
            num_inbox_entries=7,
            metric_lines=[{"kind": "step", "step": 11}, EVALUATION, STEP],
        )
    )

    assert (status["run"], status["state"], status["step"], status["total_training_steps"]) == (
        "quick",
        "running",
        12,
        60,
    )
    assert (status["policy_version"], status["ledger"]) == (12, {"parked": 1})
    assert (status["metrics"], status["evaluation"]) == (STEP, EVALUATION)
    assert status["queues"]["window_requests"] == {"num_waiting": 3, "num_leased": 32}
    assert status["num_inbox_entries"] == 7
    assert status["learner_gone_since"] is None


async def test_each_process_tells_when_it_was_last_seen() -> None:
    silent = process("generation", seconds_ago=42.0)
    status = await status_of(Observation(now=NOW, presences=[silent, process("reward", seconds_ago=1.0)]))

    seen = [(one["name"], one["is_alive"], one["seconds_since_seen"]) for one in status["services"]]
    assert seen == [("generation-0", False, 42.0), ("reward-0", True, 1.0)]


async def test_a_learner_that_fell_silent_is_reported_with_the_time() -> None:
    status = await status_of(Observation(now=NOW, presences=[process("learner", seconds_ago=60.0)]))

    assert (status["state"], status["learner_gone_since"]) == ("learner_gone", "2027-01-15T07:59:00Z")


async def test_a_run_without_a_learner_so_far_is_starting() -> None:
    assert (await status_of(Observation(now=NOW)))["state"] == "starting"


@pytest.mark.parametrize("presences", [[], [process("learner", seconds_ago=60.0)]])
async def test_a_learner_that_is_gone_after_the_last_step_is_no_trouble(presences: list[Presence]) -> None:
    last = {"kind": "step", "step": 60}
    status = await status_of(Observation(now=NOW, presences=presences, metric_lines=[last]))

    assert (status["state"], status["learner_gone_since"]) == ("finished", None)


async def test_the_page_is_plain_and_names_the_learners_absence() -> None:
    observation = Observation(now=NOW, presences=[process("learner", seconds_ago=60.0, last_error="<b>disk</b>")])
    async with client_of(observation) as client:
        answer = await client.get("/")

    assert "quick: learner gone, step 0 of 60" in answer.text
    assert "last seen at 2027-01-15 07:59:00 UTC" in answer.text
    assert 'href="/docs"' in answer.text
    assert "&lt;b&gt;disk" in answer.text
    assert "<script" not in answer.text


async def test_a_redis_that_is_gone_is_a_problem_document_and_the_process_is_healthy() -> None:
    async with client_of(RedisConnectionError("connection refused")) as client:
        answer = await client.get("/api/v1/status")
        health = await client.get("/healthz")

    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Redis does not answer: connection refused",
    }
    assert health.status_code == 200


async def test_an_unknown_address_is_a_problem_document() -> None:
    async with client_of(Observation(now=NOW)) as client:
        answer = await client.get("/api/v1/nothing")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["title"] == "Not Found"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer", "Basic !", basic("secret"), basic("secret:wrong")])
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/docs"])
async def test_with_a_token_set_nobody_else_is_answered(path: str, header: str) -> None:
    async with client_of(Observation(now=NOW), token="secret") as client:
        answer = await client.get(path, headers={"Authorization": header} if header else {})

    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert "Bearer" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", basic("anybody:secret")])
async def test_the_token_opens_the_page_to_programs_and_to_browsers(header: str) -> None:
    async with client_of(Observation(now=NOW), token="secret") as client:
        assert (await client.get("/", headers={"Authorization": header})).status_code == 200


async def test_health_needs_no_token() -> None:
    async with client_of(Observation(now=NOW), token="secret") as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_the_answer_is_described_in_the_openapi_document() -> None:
    async with client_of(Observation(now=NOW)) as client:
        document = (await client.get("/openapi.json")).json()

    properties = document["components"]["schemas"]["Status"]["properties"]
    assert properties["step"]["description"] == "Training steps done."


async def test_numbers_that_json_does_not_know_are_null() -> None:
    learner = process("learner", loss=float("nan"))
    lines = [EVALUATION | {"eval/accuracy": float("nan")}]

    status = await status_of(Observation(now=NOW, presences=[learner], metric_lines=lines))

    assert status["evaluation"]["eval/accuracy"] is None
    assert status["services"][0]["status"] == {"loss": None}


def test_only_whole_lines_of_a_files_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert newest_lines(path) == []
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"st')

    assert newest_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert newest_lines(path, num_bytes=20) == [{"step": 3}]
