"""Small Python programs stand in for the services; back-off is slept through at once, and its length recorded."""

import asyncio
import re
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.local.console.progress import Loading, Milestones
from services.local.supervision.child import Child, ChildState, Ending
from services.local.supervision.supervisor import FailureRecord, RestartRule, RunningProcess, Supervisor
from tests.support.processes import is_running
from tests.support.waiting import until
from tppo.process.presence import Presence
from tppo.run_folder.ending import EndingKind

FOREVER = "import time; print('up', flush=True); time.sleep(600)"
GRACEFUL = """
    import signal, sys, time
    def leave(*_):
        open({path!r}, "a").write({name!r} + "\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    print("up", flush=True)
    time.sleep(600)
"""


class Sleeper:
    """A sleep that takes no time and records the requested durations."""

    def __init__(self) -> None:
        self.durations: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.durations.append(seconds)
        await asyncio.sleep(0)


def program(name: str, *sources: str, is_done: bool = False, stop_rank: int = 0, grace_seconds: float = 10) -> Child:
    """A child whose n-th start runs the n-th source, and each later one the last source."""

    def command(num_starts: int) -> list[str]:
        source = sources[min(num_starts, len(sources) - 1)]
        return [sys.executable, "-c", textwrap.dedent(source)]

    return Child(name=name, command=command, is_done=lambda: is_done, stop_rank=stop_rank, grace_seconds=grace_seconds)


@asynccontextmanager
async def supervisor_in(folder: Path, **options: object) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(folder, **options)  # type: ignore[arg-type]
    try:
        yield supervisor
    finally:
        supervisor.kill()
        await supervisor.stop()


def log_of(folder: Path, name: str) -> str:
    path = folder / f"{name}.log"
    return path.read_text() if path.exists() else ""


async def test_the_run_ends_when_its_work_is_done(tmp_path: Path) -> None:
    async with supervisor_in(tmp_path) as supervisor:
        supervisor.start(program("generation-0", FOREVER))
        supervisor.start(program("learner", "pass", is_done=True))

        assert await supervisor.ending() == Ending(EndingKind.FINISHED)


async def test_a_generator_that_gives_up_is_not_restarted_and_the_last_one_ends_the_run(tmp_path: Path) -> None:
    gives_up, notes = "print('disagrees by 3 nats'); raise SystemExit(3)", list[str]()
    first = replace(program("generation-0", gives_up), group="generation")
    second = replace(program("generation-1", FOREVER), group="generation")

    async with supervisor_in(tmp_path, note=notes.append) as supervisor:
        supervisor.start(second)
        supervisor.start(first)
        await until(lambda: supervisor.states()["generation-0"] is ChildState.ENDED, "the end of the first")
        assert log_of(tmp_path, "generation-0").count("disagrees") == 1
        supervisor.start(replace(program("generation-2", gives_up), group="another"))

        assert await supervisor.ending() == Ending(EndingKind.GAVE_UP, "disagrees by 3 nats")

    assert notes == ["generation-0 gave up; the run goes on without it: disagrees by 3 nats"]


async def test_a_crashed_child_is_restarted_after_growing_delays(tmp_path: Path) -> None:
    sleeper = Sleeper()
    rule = RestartRule(first_delay_seconds=0.5)
    async with supervisor_in(tmp_path, restart_rule=rule, sleep=sleeper) as supervisor:
        supervisor.start(program("learner", "exit(1)", "exit(7)", "import os; os.abort()", "pass", is_done=True))

        ending = await supervisor.ending()

    assert ending.kind is EndingKind.FINISHED
    assert sleeper.durations == [0.5, 1.0, 2.0]


async def test_a_crash_is_noted_for_the_user_and_its_log_is_the_owners_alone(tmp_path: Path) -> None:
    notes: list[str] = []
    async with supervisor_in(tmp_path, sleep=Sleeper(), note=notes.append) as supervisor:
        supervisor.start(program("learner", "import os; os.kill(os.getpid(), 9)", "pass", is_done=True))
        await supervisor.ending()

    assert notes == ["learner was killed by SIGKILL; restart in 0.5 s"]
    assert (tmp_path / "learner.log").stat().st_mode & 0o077 == 0


async def test_a_service_that_exits_by_itself_is_restarted(tmp_path: Path) -> None:
    async with supervisor_in(tmp_path, sleep=Sleeper()) as supervisor:
        supervisor.start(program("reward-0", "pass", FOREVER))

        await until(lambda: "up" in log_of(tmp_path, "reward-0"), "the first line of reward-0")

        assert supervisor.states() == {"reward-0": ChildState.RUNNING}


async def test_exit_code_2_is_final_and_its_last_line_is_the_message(tmp_path: Path) -> None:
    refusal = (
        "import sys; print('noise', flush=True); print('model.path: no such folder\\n', file=sys.stderr); sys.exit(2)"
    )
    sleeper = Sleeper()
    async with supervisor_in(tmp_path, sleep=sleeper) as supervisor:
        supervisor.start(program("generation-0", refusal))

        ending = await supervisor.ending()

    assert ending == Ending(EndingKind.REFUSED, "model.path: no such folder")
    assert ending.exit_code == 2
    assert sleeper.durations == []


async def test_many_rapid_failures_end_the_run_with_the_end_of_the_log(tmp_path: Path) -> None:
    rule = RestartRule(max_failures=2)
    async with supervisor_in(tmp_path, restart_rule=rule, sleep=Sleeper()) as supervisor:
        supervisor.start(program("reward-0", "raise SystemExit('out of disk')"))

        ending = await supervisor.ending()

    assert ending.kind is EndingKind.GAVE_UP
    first, *log_lines = ending.message.splitlines()
    assert first.startswith("reward-0 exited with code 1, 3 times in a row")
    assert [line.strip() for line in log_lines] == ["out of disk"] * 3


async def test_the_dashboard_is_always_restarted(tmp_path: Path) -> None:
    rule, sleeper = RestartRule(first_delay_seconds=1, longest_delay_seconds=9, max_failures=1), Sleeper()
    async with supervisor_in(tmp_path, restart_rule=rule, sleep=sleeper) as supervisor:
        broken = program("dashboard", *["raise SystemExit('no such module')"] * 4, FOREVER)
        supervisor.start(replace(broken, is_needed=False))

        await until(lambda: "up" in log_of(tmp_path, "dashboard"), "the first line of dashboard")

    assert sleeper.durations == [1, 9, 9, 9]


async def test_a_program_that_cannot_be_found_ends_the_run(tmp_path: Path) -> None:
    child = Child(name="redis", command=lambda _: [str(tmp_path / "no-such-program")])
    async with supervisor_in(tmp_path, restart_rule=RestartRule(max_failures=0)) as supervisor:
        supervisor.start(child)

        ending = await supervisor.ending()

    assert ending.kind is EndingKind.GAVE_UP
    assert "No such file or directory" in ending.message


async def test_stopping_goes_rank_by_rank_and_in_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    names = {"redis": 2, "generation-0": 1, "learner": 0}
    async with supervisor_in(tmp_path) as supervisor:
        for name, rank in names.items():
            supervisor.start(program(name, GRACEFUL.format(path=str(order), name=name), stop_rank=rank))
        await until(lambda: all("up" in log_of(tmp_path, name) for name in names), "the first lines of all")

        await supervisor.stop()

        assert order.read_text().split() == ["learner", "generation-0", "redis"]
        assert set(supervisor.states().values()) == {ChildState.ENDED}


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + FOREVER
    async with supervisor_in(tmp_path) as supervisor:
        supervisor.start(program("generation-0", deaf, grace_seconds=0.05))
        await until(lambda: "up" in log_of(tmp_path, "generation-0"), "the first line of generation-0")

        await supervisor.stop()

        assert supervisor.states() == {"generation-0": ChildState.ENDED}


async def test_stopping_does_not_wait_for_a_back_off(tmp_path: Path) -> None:
    backing_off = asyncio.Event()

    async def sleep_until_cancelled(_: float) -> None:
        backing_off.set()
        await asyncio.Event().wait()

    async with supervisor_in(tmp_path, sleep=sleep_until_cancelled) as supervisor:
        supervisor.start(program("generation-0", "exit(1)"))
        await backing_off.wait()
        assert supervisor.states() == {"generation-0": ChildState.BACKING_OFF}

        await supervisor.stop()

        assert supervisor.states() == {"generation-0": ChildState.ENDED}


async def test_grandchildren_of_a_crashed_child_are_killed(tmp_path: Path) -> None:
    with_grandchild = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        raise SystemExit(1)
    """
    async with supervisor_in(tmp_path, sleep=Sleeper()) as supervisor:
        supervisor.start(program("reward-0", with_grandchild, FOREVER))
        await until(lambda: "up" in log_of(tmp_path, "reward-0"), "the first line of reward-0")

    grandchild = int(log_of(tmp_path, "reward-0").split()[0])
    await until(lambda: not is_running(grandchild), f"the end of process {grandchild}")
    assert not is_running(grandchild)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's promise is Linux' own")
async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervising = f"""
        import asyncio, sys
        from pathlib import Path
        from services.local.supervision.child import Child
        from services.local.supervision.supervisor import Supervisor
        async def supervise():
            supervisor = Supervisor(Path({str(tmp_path)!r}))
            source = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
            supervisor.start(Child(name="learner", command=lambda _: [sys.executable, "-c", source]))
            await supervisor.ending()
        asyncio.run(supervise())
    """
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(supervising))
    await until(lambda: log_of(tmp_path, "learner").endswith("\n"), "the first line of learner")
    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    pid = int(log_of(tmp_path, "learner"))
    await until(lambda: not is_running(pid), f"the end of process {pid}")
    assert parent.returncode == -signal.SIGKILL


def test_failures_back_off_to_a_limit_and_progress_resets_them() -> None:
    record = FailureRecord(RestartRule(first_delay_seconds=1, longest_delay_seconds=3, max_failures=4))

    delays = [record.delay_after(progress) for progress in (0, 0, 0, 7, 7, 7, 7, 7)]

    assert delays == [1, 2, 3, 1, 2, 3, 3, None]


async def test_the_last_error_of_a_crash_is_on_the_console(tmp_path: Path) -> None:
    notes: list[str] = []
    async with supervisor_in(tmp_path, sleep=Sleeper(), note=notes.append) as supervisor:
        group = "raise ExceptionGroup('tasks', [ValueError('no such row')])"
        late = "import sys; print('done with it', file=sys.stderr); exit(1)"
        supervisor.start(program("learner", group, late, "pass", is_done=True))
        await supervisor.ending()

    assert notes == [
        "learner exited with code 1: ValueError: no such row; restart in 0.5 s",
        "learner exited with code 1: done with it; restart in 1.0 s",
    ]


def heartbeat(name: str, *, started_at: float, seen_at: float, loading: str = "") -> Presence:
    status = {"loading": loading} if loading else {}
    return Presence(name, "generation", "", started_at=started_at, pid=1, host="here", seen_at=seen_at, status=status)


def test_a_process_loads_until_its_own_first_heartbeat_that_does_not_say_so() -> None:
    loading, running = Loading(), {"generation-0": RunningProcess(1, 0.0), "dashboard": RunningProcess(2, 0.0)}

    loading.observe([heartbeat("generation-0", started_at=5, seen_at=6, loading="the model")])
    before = loading.among(running)
    loading.observe([heartbeat("generation-0", started_at=5, seen_at=7)])
    after = loading.among(running)
    restarted = loading.among({"generation-0": RunningProcess(9, 86_400.0)})

    assert re.fullmatch(r"loading the model since \d\d:\d\d:\d\d", before["generation-0"])
    assert (list(before), after, list(restarted)) == (["generation-0"], {}, ["generation-0"])


def test_a_step_or_a_checkpoint_beyond_the_newest_is_progress_of_every_process() -> None:
    milestones = Milestones()
    marks = []
    for steps in ((3, None), (2, None), (3, 3), (3, 4), (5, 4)):
        milestones.reached(*steps)
        marks.append(milestones.of("learner"))

    assert marks == [3, 3, 3, 4, 5]
    assert milestones.of("generation-0") == 5


def test_a_service_is_healthy_once_its_heartbeat_has_come_for_a_minute_however_long_it_loaded() -> None:
    milestones = Milestones()
    marks = []
    for started_at, seen_at in ((0, 500), (0, 559), (700, 1200), (700, 1260), (700, 1400), (2000, 2100)):
        milestones.observe([heartbeat("generation-0", started_at=started_at, seen_at=seen_at)])
        marks.append(milestones.of("generation-0"))

    assert marks == [0, 0, 0, 1, 1, 1]


def test_a_process_that_only_loads_is_not_healthy() -> None:
    milestones = Milestones()

    for seen_at in (0, 500):
        milestones.observe([heartbeat("generation-0", started_at=0, seen_at=seen_at, loading="the model")])
    milestones.observe([heartbeat("generation-0", started_at=0, seen_at=501)])

    assert milestones.of("generation-0") == 0


def test_a_learner_s_heartbeat_is_no_progress() -> None:
    milestones = Milestones()

    for seen_at in (100, 900):
        milestones.observe([heartbeat("learner", started_at=0, seen_at=seen_at)])

    assert milestones.of("learner") == 0
