"""Keeps the processes of a run alive, and ends them in order.

One loop per child, `_keep_alive`: consumes the child's exit code; waits for the child's end, then for the back-off;
unblocked by the exit, the time, or `stop`; produces a restarted child, or the run's ending.

Exit codes of a child: 0 ends the run if its work is done; 2 is a wrong configuration, which no restart mends, and ends
the run too; anything else is a crash.

    WAITING ─▶ RUNNING ─▶ (crash) BACKING_OFF ─▶ RUNNING ...      any ─▶ STOPPING ─▶ ENDED
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from pathlib import Path

from services.local.restarts import FailureRecord, RestartRule

log = logging.getLogger(__name__)

REFUSED_EXIT_CODE = 2
TETHER = Path(__file__).with_name("tether.py")


class ChildState(Enum):
    """Where a child stands; the values are shown to the user."""

    WAITING = "waiting to start"
    RUNNING = "running"
    BACKING_OFF = "crashed, starts again"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process to keep alive."""

    name: str
    command: Callable[[int], Sequence[str]]
    """The command line, given how often the child was started before."""
    is_done: Callable[[], bool] = lambda: False
    """Asked when the child exits with 0: whether the run's work is done. A child that is not done starts again."""
    stop_rank: int = 0
    """Children of a lower rank are stopped, and have ended, before those of a higher one are told."""
    grace_seconds: float = 10.0
    """Time between SIGTERM and SIGKILL."""
    is_needed: bool = True
    """Whether the run is over when the child fails too often in a row; if not, it is started again for ever."""


class EndingKind(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    GAVE_UP = "gave up"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Ending:
    """Why the run ended, and a sentence about it for the user."""

    kind: EndingKind
    message: str = ""

    @property
    def exit_code(self) -> int:
        """Of `tppo run`; a run that the user stopped ends like any program on Ctrl-C."""
        return EXIT_CODES[self.kind]


EXIT_CODES = {
    EndingKind.FINISHED: 0,
    EndingKind.GAVE_UP: 1,
    EndingKind.REFUSED: REFUSED_EXIT_CODE,
    EndingKind.INTERRUPTED: 130,
}


@dataclass
class _Watched:
    child: Child
    failures: FailureRecord
    state: ChildState = ChildState.WAITING
    num_starts: int = 0
    process: asyncio.subprocess.Process | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    """Held while the process comes up, so that nobody stops half a child."""
    keeper: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Starts children, restarts those that crash, and stops all of them; each writes to a log file of its own."""

    def __init__(
        self,
        log_folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        restart_rule: RestartRule | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._log_folder = log_folder
        self._environment = dict(os.environ if environment is None else environment)
        self._restart_rule = restart_rule or RestartRule()
        self._clock = clock
        self._sleep = sleep
        self._watched: dict[str, _Watched] = {}
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def start(self, child: Child) -> None:
        """Begin to keep a child alive."""
        watched = _Watched(child, FailureRecord(self._restart_rule))
        self._watched[child.name] = watched
        watched.keeper = asyncio.create_task(self._keep_alive(watched), name=child.name)
        watched.keeper.add_done_callback(self._propagate)

    def end(self, ending: Ending) -> None:
        """Let `ending` return; the first reason counts."""
        if not self._ending.done():
            self._ending.set_result(ending)

    async def ending(self) -> Ending:
        """Wait until the run has ended, whatever the reason."""
        return await asyncio.shield(self._ending)

    def states(self) -> dict[str, ChildState]:
        """Every child's state by its name, in the order of starting."""
        return {name: watched.state for name, watched in self._watched.items()}

    def log_path(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._log_folder / f"{name}.log"

    async def stop(self) -> None:
        """Stop all children: rank by rank, SIGTERM first, SIGKILL to what remains after its grace."""
        by_rank = sorted(self._watched.values(), key=lambda watched: watched.child.stop_rank)
        for _, rank in groupby(by_rank, key=lambda watched: watched.child.stop_rank):
            await asyncio.gather(*(self._stop_one(watched) for watched in rank))

    def kill(self) -> None:
        """SIGKILL to all children at once, for a user who will not wait."""
        for watched in self._watched.values():
            watched.state = ChildState.STOPPING
            if watched.process is not None:
                _kill_group(watched.process.pid)

    async def _keep_alive(self, watched: _Watched) -> None:
        while True:
            started_at = self._clock()
            exit_code = await self._run_once(watched)
            if watched.state is ChildState.STOPPING:
                return
            delay_seconds = watched.failures.delay_after(self._clock() - started_at)
            if delay_seconds is None and not watched.child.is_needed:
                delay_seconds = self._restart_rule.longest_delay_seconds
            ending = self._ending_after(watched.child, exit_code, may_restart=delay_seconds is not None)
            if ending is not None:
                watched.state = ChildState.ENDED
                self.end(ending)
                return
            assert delay_seconds is not None
            watched.state = ChildState.BACKING_OFF
            log.warning("%s %s; starts in %.1f s", watched.child.name, describe_exit(exit_code), delay_seconds)
            await self._sleep(delay_seconds)

    async def _run_once(self, watched: _Watched) -> int:
        """The exit code of one life of a child; whatever it leaves behind in its process group is killed."""
        command = watched.child.command(watched.num_starts)
        watched.num_starts += 1
        async with watched.starting:
            process = await self._spawn(watched.child.name, command)
            watched.process = process
            watched.state = ChildState.RUNNING
        log.info("%s started, process %d: %s", watched.child.name, process.pid, " ".join(command))
        exit_code = await process.wait()
        _kill_group(process.pid)
        return exit_code

    async def _spawn(self, name: str, command: Sequence[str]) -> asyncio.subprocess.Process:
        with self.log_path(name).open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *_tethered(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def _ending_after(self, child: Child, exit_code: int, *, may_restart: bool) -> Ending | None:
        if exit_code == 0 and child.is_done():
            return Ending(EndingKind.FINISHED)
        if exit_code == REFUSED_EXIT_CODE:
            lines = tail(self.log_path(child.name), num_lines=1)
            return Ending(EndingKind.REFUSED, lines[0] if lines else f"{child.name} refused its configuration")
        return None if may_restart else Ending(EndingKind.GAVE_UP, self._farewell(child, exit_code))

    def _farewell(self, child: Child, exit_code: int) -> str:
        path = self.log_path(child.name)
        times = self._restart_rule.max_rapid_failures + 1
        return "\n".join(
            [
                f"{child.name} {describe_exit(exit_code)}, {times} times in a row; the end of {path}:",
                *(f"    {line}" for line in tail(path, num_lines=15)),
            ]
        )

    async def _stop_one(self, watched: _Watched) -> None:
        async with watched.starting:
            watched.state = ChildState.STOPPING
        keeper, process, grace_seconds = watched.keeper, watched.process, watched.child.grace_seconds
        assert keeper is not None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait([keeper], timeout=grace_seconds)
            if not keeper.done():
                log.warning("%s did not end within %.0f s; killed", watched.child.name, grace_seconds)
                _kill_group(process.pid)
                await asyncio.wait([keeper])
        keeper.cancel()  # one that backs off, or is about to start, has no process to wait for
        await asyncio.wait([keeper])
        watched.state = ChildState.ENDED

    def _propagate(self, keeper: asyncio.Task[None]) -> None:
        """A keeper that fails by itself (no such program, disk full) fails the run."""
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None and not self._ending.done():
            self._ending.set_exception(error)


def describe_exit(exit_code: int) -> str:
    """The exit code in words: negative ones are signals."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was killed by {signal.Signals(-exit_code).name}"


def tail(path: Path, *, num_lines: int) -> list[str]:
    """The last lines of a log that say something."""
    longest_bytes = 64 * 1024
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - longest_bytes))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-num_lines:]


def _tethered(command: Sequence[str]) -> list[str]:
    # -I -S: no site packages, no user's start-up files; the stand-in costs 15 ms.
    return [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
