"""What the learner says when nothing happens."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from learner.exchange.weight_publisher import GeneratorState
from learner.reporting.watchdog import Watchdog, explanation
from learner.rollouts.rollout import State
from tppo.process.presence import Presence
from tppo.streams import StreamsUnavailable

NOON = 1_700_000_000.0


def seen(name: str, *, seconds_ago: float = 0.0, **status: Any) -> Presence:
    kind = name.partition("-")[0]
    return Presence(name, kind, "", started_at=0.0, pid=1, host="h", seen_at=NOON - seconds_ago, status=status)


def test_it_names_the_service_whose_heartbeat_is_missing_and_for_how_long() -> None:
    said = explanation({State.SCORING: 12}, [seen("learner"), seen("reward-0", seconds_ago=60)], {})

    assert said == "waiting for 12 scores; no heartbeat from reward service reward-0 for 60 s"


def test_it_says_that_no_service_is_registered() -> None:
    assert explanation({State.REQUESTED: 3}, [seen("learner")], {}) == (
        "waiting for 3 windows; no generation service is registered"
    )


def test_it_repeats_a_services_error_and_leaves_out_the_others() -> None:
    processes = [
        seen("generation-0", last_error="out of memory"),
        seen("generation-1"),
        seen("reward-0", last_error="x"),
    ]

    assert explanation({State.REQUESTED: 3}, processes, {}) == (
        "waiting for 3 windows; generation-0 reports: out of memory"
    )


def test_it_names_generators_that_weights_do_not_reach() -> None:
    generators = {"generation-0": GeneratorState("127.0.0.1:1", 3, "UNAVAILABLE: connection refused")}

    assert explanation({State.REQUESTED: 1}, [seen("generation-0")], generators) == (
        "waiting for 1 windows; weights do not reach generation-0: UNAVAILABLE: connection refused"
    )


async def test_it_warns_only_while_no_step_is_done(caplog: pytest.LogCaptureFixture) -> None:
    async def processes() -> Sequence[Presence]:
        raise StreamsUnavailable("connection refused")

    watchdog = Watchdog(0.01, dict, {}, processes)
    serving = asyncio.create_task(watchdog.serve())
    while not watchdog.text:  # noqa: ASYNC110  nothing announces it
        await asyncio.sleep(0.001)
    said = watchdog.text
    watchdog.note_step()

    assert said == "Redis does not answer: connection refused"
    assert said in caplog.text
    assert watchdog.text == ""
    serving.cancel()
