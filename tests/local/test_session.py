"""A whole run with a real embedded server; small programs stand in for the services."""

import asyncio
import json
import os
import signal
import stat
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.local.console.display import RunOverview
from services.local.launch import prepare
from services.local.processes import Plan
from services.local.redis_server import RedisServer, find_binary, free_port
from services.local.results import Summary
from services.local.session import Session
from services.local.supervision.child import Child, Ending
from tests.support.waiting import until
from tppo.config import Config
from tppo.process.cancellation import cancel_all
from tppo.process.presence import Presence, announce
from tppo.rollout import Action, Command
from tppo.run_folder.ending import EndingKind
from tppo.run_folder.paths import RunPaths
from tppo.security.private_files import new_secret
from tppo.security.record_keys import record_secrets, sealed_records
from tppo.streams.connection import connect
from tppo.streams.contract import BEGINNING
from tppo.streams.fence import Fence
from tppo.streams.redis import RedisStreams

LEARNER = """
    import json, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    lines = [
        {{"kind": "evaluation", "step": 0, "eval/accuracy": 0.4, "eval/accuracy_stderr": 0.02}},
        {{"kind": "step", "step": 1, "seconds_since_start": 1.0, "tokens/trained": 10, "timing_s/train": 0.5}},
        {{"kind": "evaluation", "step": 1, "eval/accuracy": 0.9, "eval/accuracy_stderr": 0.01}},
    ]
    with open({path!r}, "w") as file:
        file.writelines(json.dumps(line) + "\\n" for line in lines)
    {then}
"""


class Recorder:
    """A display with events for each call, and for the first training step."""

    def __init__(self) -> None:
        self.shown = asyncio.Event()
        self.step_seen = asyncio.Event()
        self.is_closed = False
        self.notes: list[str] = []

    def show(self, overview: RunOverview) -> None:
        self.shown.set()
        if overview.step:
            self.step_seen.set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.is_closed = True


def plan_in(folder: Path, *, name: str = "run", redis_url: str = "") -> Plan:
    config = Config.model_validate(
        {"run": {"directory": folder, "name": name}, "model": {"path": folder}, "data": {"train_files": [folder]}}
    )
    paths = RunPaths(config.run.path)
    prepare(paths, resume=False)
    server = RedisServer(
        binary=find_binary(search_path=""),
        port=free_port(),
        folder=paths.redis,
        memory_limit_mb=64,
        password=new_secret(),
    )
    return Plan(
        config=config,
        paths=paths,
        resume=False,
        redis_url=redis_url or server.url,
        server=None if redis_url else server,
    )


def learner(plan: Plan, *, then: str) -> Child:
    source = textwrap.dedent(LEARNER.format(path=str(plan.paths.metrics), then=then))
    return Child(name="learner", command=lambda _: [sys.executable, "-c", source], is_done=lambda: True)


async def run(plan: Plan, child: Child, display: Recorder) -> tuple[Ending, Summary]:
    return await Session(plan, [child], display).run(started_at=time.monotonic())


async def test_a_finished_run_writes_its_summary_and_its_learning_curve(tmp_path: Path) -> None:
    plan, display = plan_in(tmp_path), Recorder()

    ending, summary = await run(plan, learner(plan, then=""), display)

    assert ending.kind is EndingKind.FINISHED
    assert json.loads(plan.paths.summary.read_text())["final_accuracy"] == 0.9
    assert (summary.steps, summary.base_accuracy, summary.seconds_training) == (1, 0.4, 0.5)
    assert plan.paths.learning_curve.exists()
    assert display.is_closed


async def test_the_server_s_address_is_there_for_the_same_user_while_the_run_goes_on(tmp_path: Path) -> None:
    plan, seen = plan_in(tmp_path), tmp_path / "seen"
    copy = f"import shutil; shutil.copy2({str(plan.paths.redis_url)!r}, {str(seen)!r})"

    await run(plan, learner(plan, then=copy), Recorder())

    assert seen.read_text() == f"{plan.redis_url}\n"
    assert stat.S_IMODE(seen.stat().st_mode) == 0o600
    assert not plan.paths.redis_url.exists()


async def test_a_run_that_cannot_go_on_ends_with_exit_code_1_and_its_cause_in_the_summary(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    source = "import sys; print('tppo learner: nothing is scored', file=sys.stderr); sys.exit(3)"
    child = Child(name="learner", command=lambda _: [sys.executable, "-c", source])

    ending, _ = await run(plan, child, Recorder())

    assert (ending.kind, ending.exit_code, ending.message) == (EndingKind.GAVE_UP, 1, "tppo learner: nothing is scored")
    written = json.loads(plan.paths.summary.read_text())
    assert (written["ending"], written["cause"]) == ("gave up", "tppo learner: nothing is scored")


async def test_what_ran_before_a_kill_of_everything_counts_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.local.session.SUMMARY_SECONDS", 0.05)
    plan, display = plan_in(tmp_path), Recorder()
    running = asyncio.create_task(run(plan, learner(plan, then="time.sleep(600)"), display))
    await until(plan.paths.summary.exists, "the summary of a run that goes on")
    await display.step_seen.wait()
    known = json.loads(plan.paths.summary.read_text())
    await cancel_all([running])  # no orderly end: nothing is written after this

    _, summary = await run(replace(plan, resume=True), learner(plan, then=""), Recorder())

    assert known["ending"] == "running"
    assert known["seconds_total"] > 0
    assert summary.ending == "finished"
    assert summary.seconds_total > known["seconds_total"]


@pytest.mark.parametrize(("cause", "arguments"), [("", {}), ("FAILED 'x'", {"cause": "\"FAILED 'x'\""})])
async def test_parked_rollouts_are_requested_again_by_a_command_in_the_inbox(
    tmp_path: Path, redis_url: str, run_name: str, cause: str, arguments: dict[str, str]
) -> None:
    plan = plan_in(tmp_path, name=run_name, redis_url=redis_url)
    plan = replace(plan, resume=True, retries_parked=True, parked_cause=cause)

    await run(plan, learner(plan, then=""), Recorder())

    async with await connect(redis_url) as client:
        inbox = RedisStreams(client, run=run_name, lease_seconds=15).inbox
        (entry,) = await inbox.read(BEGINNING, max_count=9, wait_seconds=0)
    command = sealed_records(record_secrets(plan.config.run)).record(entry.payload)
    assert isinstance(command, Command)
    assert (command.action, command.issued_by) == (Action.RETRY_PARKED, "tppo run --resume --retry-parked")
    assert command.arguments == arguments


@pytest.mark.slow
async def test_ctrl_c_stops_all_processes_and_still_writes_the_summary(tmp_path: Path) -> None:
    plan, display = plan_in(tmp_path), Recorder()
    running = asyncio.create_task(run(plan, learner(plan, then="time.sleep(600)"), display))
    await display.step_seen.wait()

    os.kill(os.getpid(), signal.SIGINT)
    ending, summary = await running

    assert (ending.kind, ending.exit_code) == (EndingKind.INTERRUPTED, 130)
    assert summary.steps == 1
    assert plan.paths.summary.exists()


async def test_a_learner_that_refuses_its_configuration_ends_the_run(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    source = "import sys; print('tppo learner: row 7 has no answer', file=sys.stderr); sys.exit(2)"
    child = Child(name="learner", command=lambda _: [sys.executable, "-c", source], is_done=lambda: True)

    ending, _ = await run(plan, child, Recorder())

    assert (ending.kind, ending.message) == (EndingKind.REFUSED, "tppo learner: row 7 has no answer")
    assert not plan.paths.summary.exists()


@pytest.mark.slow
async def test_generators_are_counted_as_they_announce_themselves(tmp_path: Path) -> None:
    plan, display = plan_in(tmp_path), Recorder()
    running = asyncio.create_task(run(plan, learner(plan, then="time.sleep(600)"), display))
    await display.step_seen.wait()

    status = {"num_tokens_generated": 70, "num_decode_steps": 5, "num_slots": 4, "num_active_slot_steps": 15}
    presence = Presence(
        name="generation-0", kind="generation", address="", started_at=1.0, pid=1, host="here", status=status
    )
    async with await connect(plan.redis_url) as client:
        await announce(client, plan.config.run.name, presence)
    for _ in range(2):  # the first look may have begun before the announcement
        display.shown.clear()
        await display.shown.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    _, summary = await running

    assert (summary.tokens_generated, summary.decode_steps, summary.slot_occupancy) == (70, 5, 0.75)


async def test_a_new_run_deletes_what_an_older_one_of_its_name_left_in_a_lasting_server(
    tmp_path: Path, redis_url: str, run_name: str
) -> None:
    plan = plan_in(tmp_path, name=run_name, redis_url=redis_url)
    async with await connect(redis_url) as client:
        await client.set(f"tppo:{{{run_name}}}:inbox", "old")
        await client.set(f"tppo:{{{run_name}-other}}:inbox", "not ours")

        await run(plan, learner(plan, then=""), Recorder())

        assert await client.keys(f"tppo:{{{run_name}*:inbox") == [f"tppo:{{{run_name}-other}}:inbox".encode()]


async def test_a_new_run_of_a_name_that_a_learner_holds_is_refused(
    tmp_path: Path, redis_url: str, run_name: str
) -> None:
    plan = plan_in(tmp_path, name=run_name, redis_url=redis_url)
    async with await connect(redis_url) as client:
        await Fence(client, run_name, host="another", lease_seconds=3600).acquire(1)
        await client.set(f"tppo:{{{run_name}}}:inbox", "of a living run")

        ending, _ = await run(plan, learner(plan, then=""), Recorder())

        assert ending.kind is EndingKind.REFUSED
        assert "use another run.name" in ending.message
        assert await client.get(f"tppo:{{{run_name}}}:inbox") == b"of a living run"


async def test_the_dashboards_alerts_are_on_the_console_and_in_the_log_once(
    tmp_path: Path, redis_url: str, run_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan, display = plan_in(tmp_path, name=run_name, redis_url=redis_url), Recorder()
    alert = {"key": "paused:", "severity": "notice", "text": "Paused by operator."}
    presence = Presence("dashboard", "dashboard", "", 0.0, 1, "here", status={"url": "", "alerts": [alert]})
    running = asyncio.create_task(run(plan, learner(plan, then="time.sleep(600)"), display))
    await display.step_seen.wait()
    async with await connect(redis_url) as client:
        await announce(client, run_name, presence)
        await until(lambda: display.notes, "the alert")
        await announce(client, run_name, presence)
    display.shown.clear()
    await display.shown.wait()
    os.kill(os.getpid(), signal.SIGINT)
    await running

    assert display.notes == ["notice: Paused by operator."]
    assert [record.getMessage() for record in caplog.records].count("notice: Paused by operator.") == 1


async def test_a_server_that_does_not_answer_is_on_the_console_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.local.console.display.OVER_SECONDS", 0.0)
    plan, display = plan_in(tmp_path), Recorder()
    running = asyncio.create_task(run(plan, learner(plan, then="time.sleep(600)"), display))
    await display.step_seen.wait()
    async with await connect(plan.redis_url) as client:
        process_id = int((await client.info("server"))["process_id"])
        os.kill(process_id, signal.SIGSTOP)
        await until(lambda: display.notes, "the alert")
        os.kill(process_id, signal.SIGCONT)
        dashboard = Presence("dashboard", "dashboard", "", 0.0, 1, "here", status={"url": "", "alerts": []})
        await announce(client, plan.config.run.name, dashboard)
        await until(lambda: len(display.notes) > 1, "the end of the alert")
    os.kill(os.getpid(), signal.SIGINT)
    await running

    assert display.notes[0].startswith("error: Redis does not answer: ")
    assert display.notes[1:] == [display.notes[0].replace("error: ", "over: ", 1)]
