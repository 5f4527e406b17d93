"""`/api/v1/status` over observations made up for each test."""

import time
from pathlib import Path
from typing import Any

import pytest

from services.dashboard.live.source import Observation
from services.dashboard.live.status import status_of as status_of_view
from tests.dashboard.clients import NOW, FixedSource, answer_of, process, views_of
from tests.dashboard.run_folders import RunFolderBuilder, evaluation_line, requested, step_line
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.streams import QueueDepth, StreamsUnavailable
from tppo.streams.contract import DeadLetter, DeadLetterCount

AWAY = StreamsUnavailable("connection refused")


@pytest.fixture
def run(tmp_path: Path) -> RunFolderBuilder:
    return RunFolderBuilder(tmp_path / "runs" / "quick", total_training_steps=60)


async def status_of(run: RunFolderBuilder, *observations: Observation | Exception) -> Any:
    return await answer_of(run.path.parent, "status", FixedSource(*observations))


def seen(*presences: Any, **more: Any) -> Observation:
    return Observation(now=NOW, presences=list(presences), **more)


async def test_a_running_run_has_its_numbers(run: RunFolderBuilder) -> None:
    run.metrics(step_line(11), evaluation_line(10, 0.75), step_line(12, reward__mean=0.5))
    learner = process("learner", policy_version=12, ledger={"parked": 1}, waiting_for="3 windows")
    depth = QueueDepth(num_waiting=3, num_leased=32)

    status = await status_of(run, seen(learner, window_requests=depth, num_inbox_entries=7))

    assert (status["run"], status["state"], status["step"], status["total_training_steps"]) == (
        "quick",
        "running",
        12,
        60,
    )
    assert (status["policy_version"], status["ledger"], status["waiting_for"]) == (12, {"parked": 1}, "3 windows")
    assert (status["metrics"]["reward/mean"], status["evaluation"]["eval/accuracy"]) == (0.5, 0.75)
    assert status["queues"]["window_requests"] == {"num_waiting": 3, "num_leased": 32}
    assert (status["num_inbox_entries"], status["known_since"], status["has_control"]) == (7, None, True)


async def test_rejected_requests_and_records_are_shown_with_their_cause(run: RunFolderBuilder) -> None:
    run.metrics(step_line(1))
    letter = DeadLetter("inbox", "17-0", "window 0 of 0-3-0: token 1000000; expected one of 0 to 99", b"\xff")

    status = await status_of(
        run, seen(process("learner"), dead_letters=DeadLetterCount(1000, 3), newest_dead_letters=[letter])
    )

    assert status["dead_letters"] == {
        "num_kept": 1000,
        "num_dropped": 3,
        "newest": [{"source": "inbox", "place": "17-0", "cause": letter.cause}],
    }
    alert = next(alert for alert in status["alerts"] if "rejected" in alert["text"])
    assert alert["severity"] == "warning"
    assert alert["text"] == f"1003 requests or records were rejected; the newest of inbox: {letter.cause}."


async def test_an_alert_about_learning_names_the_best_checkpoint(run: RunFolderBuilder) -> None:
    run.metrics(*(step_line(step, actor__top_percent_weight=0.5) for step in range(1, 11)))
    folder = CheckpointFolder(RunPaths(run.path).checkpoints)
    run.checkpoint(8)
    folder.best_record.write_text('{"step": 8, "accuracy": 0.9, "measure": "eval/accuracy"}')

    (alert,) = (await status_of(run, seen(process("learner"))))["alerts"]

    assert alert["text"].endswith("the best checkpoint is version 8: tppo rollback quick --to 8.")
    assert (alert["severity"], alert["since_step"]) == ("warning", 1)


async def test_each_process_has_the_age_of_its_heartbeat(run: RunFolderBuilder) -> None:
    status = await status_of(run, seen(process("generation", seconds_ago=42.0), process("reward", seconds_ago=1.0)))

    ages = [(one["name"], one["is_alive"], one["seconds_since_seen"]) for one in status["services"]]
    assert ages == [("generation-0", False, 42.0), ("reward-0", True, 1.0)]


async def test_a_learner_without_heartbeat_is_reported_with_the_time(run: RunFolderBuilder) -> None:
    status = await status_of(run, seen(process("learner", seconds_ago=60.0)))

    assert (status["state"], status["waiting_for"]) == ("learner_gone", "the learner")
    assert status["learner_gone_since"] == status["known_since"] == "2027-01-15T08:00:40Z"
    assert status["alerts"][0] == {
        "severity": "error",
        "text": "No heartbeat from learner for 60 s.",
        "since_step": None,
    }


async def test_without_a_learner_the_status_is_the_folders(run: RunFolderBuilder) -> None:
    run.journal(requested("r", time=70.0))

    assert (await status_of(run, seen(process("learner", seconds_ago=60.0))))["known_since"] == "2027-01-15T08:01:10Z"


async def test_a_run_without_a_learner_is_starting(run: RunFolderBuilder) -> None:
    assert (await status_of(run, seen()))["state"] == "starting"


async def test_a_learner_that_loads_after_a_restart_is_starting_and_no_alert(run: RunFolderBuilder) -> None:
    run.metrics(step_line(5))

    status = await status_of(run, seen(process("learner", loading="data, policy and value model", incarnation=2)))

    assert (status["state"], status["step"], status["alerts"]) == ("starting", 5, [])
    assert status["waiting_for"] == "the learner, which is loading data, policy and value model"


@pytest.mark.parametrize("presences", [[], [process("learner", seconds_ago=60.0)]])
async def test_a_learner_gone_after_the_last_step_is_no_alert(run: RunFolderBuilder, presences: Any) -> None:
    run.metrics(step_line(60))
    status = await status_of(run, seen(*presences))

    assert (status["state"], status["learner_gone_since"], status["alerts"]) == ("finished", None, [])


async def test_without_redis_the_status_is_the_folders_and_says_so(run: RunFolderBuilder) -> None:
    run.metrics(step_line(5))

    status = await status_of(run, AWAY)

    assert (status["state"], status["step"], status["has_control"]) == ("redis_gone", 5, False)
    assert (status["known_since"], status["waiting_for"]) == ("2027-01-15T08:00:50Z", "Redis")
    assert status["alerts"][0]["text"] == "Redis does not answer: connection refused."


async def test_when_redis_goes_away_its_last_answer_stays(run: RunFolderBuilder) -> None:
    source = FixedSource(seen(process("learner", policy_version=4)), AWAY)
    views = views_of(run.path.parent, source, live="quick")
    before = status_of_view(await views.of())
    assert views.observer
    await views.observer.look()
    after = status_of_view(await views.of())

    assert (before.state, after.state) == ("running", "redis_gone")
    assert (after.policy_version, [one.name for one in after.services]) == (4, ["learner-0"])


async def test_a_finished_run_is_known_from_its_folder_alone(run: RunFolderBuilder) -> None:
    run.metrics(step_line(60))

    status = await answer_of(run.path.parent, "status")

    assert (status["state"], status["known_since"], status["has_control"]) == (
        "finished",
        "2027-01-15T08:10:00Z",
        False,
    )


async def test_a_run_that_ended_early_has_stopped(run: RunFolderBuilder) -> None:
    run.metrics(step_line(59))

    assert (await answer_of(run.path.parent, "status"))["state"] == "stopped"


@pytest.mark.parametrize(
    ("ending", "state"), [("interrupted", "stopped"), ("finished", "stopped"), ("gave up", "gave_up")]
)
async def test_a_run_that_has_just_ended_does_not_count_as_running(
    run: RunFolderBuilder, ending: str, state: str
) -> None:
    run.metrics(step_line(11) | {"time": time.time()})
    before = (await answer_of(run.path.parent, "status"))["state"]
    run.summary(ending)

    after = (await answer_of(run.path.parent, "status"))["state"]
    (listed,) = (await answer_of(run.path.parent, "runs"))["items"]

    assert (before, after, listed["state"]) == ("running", state, state)


async def test_a_run_that_gave_up_says_why(run: RunFolderBuilder) -> None:
    run.metrics(step_line(11))
    run.summary("gave up", cause="reward function 'exact' has failed 96 times in a row")

    status = await answer_of(run.path.parent, "status")

    assert status["ending_cause"] == "reward function 'exact' has failed 96 times in a row"


@pytest.mark.parametrize("content", ["", "{}", '{"ending": 5}', '{"ending": "running", "cause": ""}', "[]"])
async def test_a_summary_that_names_no_ending_says_nothing(run: RunFolderBuilder, content: str) -> None:
    run.metrics(step_line(11) | {"time": time.time()})
    run.summary("gave up")
    (run.path / "summary.json").write_text(content)

    assert (await answer_of(run.path.parent, "status"))["state"] == "running"


async def test_a_run_that_was_resumed_after_its_ending_goes_on(run: RunFolderBuilder) -> None:
    run.metrics(step_line(11) | {"time": time.time()})
    run.summary("interrupted", seconds_after_its_lines=-1.0)

    assert (await answer_of(run.path.parent, "status"))["state"] == "running"


async def test_a_live_run_has_ended_if_it_did_so_after_the_dashboard_began(run: RunFolderBuilder) -> None:
    run.metrics(step_line(11))
    run.summary("interrupted", seconds_after_its_lines=0.0)
    views = views_of(run.path.parent, FixedSource(seen(process("learner", seconds_ago=60.0))), live="quick")
    of_earlier_session = status_of_view(await views.of()).state
    run.summary("interrupted", seconds_after_its_lines=60.0)
    of_this_session = status_of_view(await views.of()).state

    assert (of_earlier_session, of_this_session) == ("learner_gone", "stopped")


async def test_a_run_that_an_operator_stopped_has_stopped(run: RunFolderBuilder) -> None:
    run.metrics(step_line(11) | {"time": time.time()})
    RunPaths(run.path).stopped_mark.touch()

    assert (await answer_of(run.path.parent, "status"))["state"] == "stopped"


async def test_a_transfer_that_fails_is_an_alert(run: RunFolderBuilder) -> None:
    learner = process("learner", generators={"generation-0": {"error": "the generator loaded digest x, not y"}})

    alerts = (await status_of(run, seen(learner)))["alerts"]

    assert "weights for generation-0: the generator loaded digest x, not y" in [one["text"] for one in alerts]


async def test_a_generator_whose_weights_are_disproved_is_an_alert_of_the_run(run: RunFolderBuilder) -> None:
    apart = "with the weights of version 7 the engine differs from the learner by up to 2.5 nats"
    generator = process("generation", proof="disproved", proof_error=apart)
    alerts = (await status_of(run, seen(process("learner"), generator)))["alerts"]

    assert alerts[0]["severity"] == "error"
    assert alerts[0]["text"] == f"generation-0 serves nothing, and is sent the weights again: {apart}."


async def test_control_is_the_learners_report(run: RunFolderBuilder) -> None:
    command = {"command_id": "1", "action": "PAUSE", "arguments": {}, "issued_at": NOW, "outcome": "done", "text": "t"}
    control = {"paused": True, "stop_after_step": 9, "settings": {"actor.lr": 1e-6}, "commands": [command]}

    status = await status_of(run, seen(process("learner", control=control)))

    assert status["control"] == control
    assert "Paused by operator." in [one["text"] for one in status["alerts"]]


async def test_control_in_another_form_is_unknown(run: RunFolderBuilder) -> None:
    assert (await status_of(run, seen(process("learner", control=["paused"]))))["control"] is None


async def test_numbers_that_json_does_not_know_are_null(run: RunFolderBuilder) -> None:
    (run.path / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "reward/mean": NaN}\n')

    status = await status_of(run, seen(process("learner", loss=float("nan"))))

    assert status["metrics"]["reward/mean"] is None
    assert status["services"][0]["status"] == {"loss": None}
