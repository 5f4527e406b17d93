"""Keeps the processes of a run alive, and ends them in order.

One loop per child, `_keep_alive`: consumes the child's exit code; waits for the child's exit, then for the back-off;
unblocked by the exit, the time, or `stop`; produces a restarted child, or the run's ending.

Exit codes of a child: 0 ends the run if its work is done; 2 is a wrong configuration and 3 a run that cannot go on,
which no restart mends, and end the run too, but for a 3 of one of a group; anything else is a crash.

    WAITING ─▶ RUNNING ─▶ (crash) BACKING_OFF ─▶ RUNNING ...      any ─▶ STOPPING ─▶ ENDED
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from services.local.supervision.child import GAVE_UP_EXIT_CODE, REFUSED_EXIT_CODE, Child, ChildState, Ending
from tppo.process.backoff import Backoff
from tppo.process.cancellation import cancel_all
from tppo.process.tether import tethered
from tppo.run_folder.ending import EndingKind

log = logging.getLogger(__name__)

FINAL_KINDS = {REFUSED_EXIT_CODE: EndingKind.REFUSED, GAVE_UP_EXIT_CODE: EndingKind.GAVE_UP}
# Groups of exceptions are indented by bars.
ERROR_LINE = re.compile(r"[\s|]*((?:\w+\.)*[A-Z]\w*(?:Error|Exception)\b.*)")
ERROR_LINES = 50
MAX_ERROR_CHARS = 400


@dataclass(frozen=True, kw_only=True)
class RestartRule:
    """When a child that exited unexpectedly is restarted: after an exponential back-off, reset by progress."""

    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 30.0
    max_failures: int = 5
    """One failure more in a row, with no progress between them, and the supervisor gives up."""


class FailureRecord:
    """The failures in a row of one process."""

    def __init__(self, rule: RestartRule) -> None:
        self._rule = rule
        self._backoff = Backoff(first_seconds=rule.first_delay_seconds, longest_seconds=rule.longest_delay_seconds)
        self._num_in_a_row = self._progress = 0

    def delay_after(self, progress: int) -> float | None:
        """Seconds to wait after a failure; None: give up. Where `progress` has grown, earlier failures do not count."""
        if progress > self._progress:
            self._num_in_a_row, self._progress = 0, progress
            self._backoff.reset()
        self._num_in_a_row += 1
        if self._num_in_a_row > self._rule.max_failures:
            return None
        return self._backoff.next_delay()


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """The process of a child that runs."""

    pid: int
    started_at: float
    """Seconds since the epoch."""


@dataclass
class _Watched:
    child: Child
    failures: FailureRecord
    state: ChildState = ChildState.WAITING
    num_starts: int = 0
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0  # seconds since the epoch
    log_start: int = 0  # where the process's own output begins in the log
    starting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    """Held while the process starts, so that `stop` never sees half a child."""
    keeper: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Starts children, restarts those that crash, and stops all of them; each writes to a log file of its own."""

    def __init__(
        self,
        log_folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        restart_rule: RestartRule | None = None,
        progress: Callable[[str], int] = lambda name: 0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` is given a line whenever a child crashed and will be restarted, for the user to see.

        `progress` gives, for a child's name, a number that grows while it or the run gets on.
        """
        self._log_folder = log_folder
        self._environment = dict(os.environ if environment is None else environment)
        self._restart_rule = restart_rule or RestartRule()
        self._progress = progress
        self._sleep = sleep
        self._note = note
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

    def running(self) -> dict[str, RunningProcess]:
        """Those that run, by their names."""
        return {
            name: RunningProcess(watched.process.pid, watched.started_at)
            for name, watched in self._watched.items()
            if watched.state is ChildState.RUNNING and watched.process is not None
        }

    def log_path(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._log_folder / f"{name}.log"

    async def stop(self) -> None:
        """Stop all children: rank by rank, SIGTERM first, SIGKILL to what remains after its grace."""
        by_rank = sorted(self._watched.values(), key=lambda watched: watched.child.stop_rank)
        for _, rank in groupby(by_rank, key=lambda watched: watched.child.stop_rank):
            await asyncio.gather(*(self._stop_one(watched) for watched in rank))

    def kill(self) -> None:
        """SIGKILL to all children at once."""
        for watched in self._watched.values():
            watched.state = ChildState.STOPPING
            if watched.process is not None:
                _kill_group(watched.process.pid)

    async def _keep_alive(self, watched: _Watched) -> None:
        while True:
            exit_code = await self._run_once(watched)
            if watched.state is ChildState.STOPPING:
                return
            left = [one.child.group for one in self._watched.values() if one.state is not ChildState.ENDED]
            if exit_code == GAVE_UP_EXIT_CODE and watched.child.group and left.count(watched.child.group) > 1:
                watched.state, name = ChildState.ENDED, watched.child.name
                self._note(f"{name} gave up; the run goes on without it: {last_error(self.log_path(name))}")
                return
            delay_seconds = watched.failures.delay_after(self._progress(watched.child.name))
            if delay_seconds is None and not watched.child.is_needed:
                delay_seconds = self._restart_rule.longest_delay_seconds
            ending = self._ending_after(watched.child, exit_code, may_restart=delay_seconds is not None)
            if ending is not None:
                watched.state = ChildState.ENDED
                self.end(ending)
                return
            assert delay_seconds is not None
            watched.state = ChildState.BACKING_OFF
            error = last_error(self.log_path(watched.child.name), watched.log_start) if exit_code > 0 else ""
            cause = f": {error}" if error else ""
            text = f"{watched.child.name} {describe_exit(exit_code)}{cause}; restart in {delay_seconds:.1f} s"
            log.warning("%s", text)
            self._note(text)
            await self._sleep(delay_seconds)

    async def _run_once(self, watched: _Watched) -> int:
        """The child's exit code; whatever it leaves behind in its process group is killed."""
        command = watched.child.command(watched.num_starts)
        watched.num_starts += 1
        async with watched.starting:
            watched.log_start = _size(self.log_path(watched.child.name))
            watched.started_at = time.time()
            process = await self._spawn(watched.child, command)
            watched.process = process
            watched.state = ChildState.RUNNING
        log.info("%s started, process %d: %s", watched.child.name, process.pid, " ".join(command))
        exit_code = await process.wait()
        _kill_group(process.pid)
        return exit_code

    async def _spawn(self, child: Child, command: Sequence[str]) -> asyncio.subprocess.Process:
        with _open_log(self.log_path(child.name)) as output:
            return await asyncio.create_subprocess_exec(
                *tethered(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **child.environment},
                pass_fds=child.inherited,
                start_new_session=True,
            )

    def _ending_after(self, child: Child, exit_code: int, *, may_restart: bool) -> Ending | None:
        if exit_code == 0 and child.is_done():
            return Ending(EndingKind.FINISHED)
        if exit_code in FINAL_KINDS:
            lines = tail(self.log_path(child.name), num_lines=1)
            no_message = f"{child.name} {describe_exit(exit_code)} and no message; expected a configuration it accepts"
            return Ending(FINAL_KINDS[exit_code], lines[0] if lines else no_message)
        return None if may_restart else Ending(EndingKind.GAVE_UP, self._last_failure(child, exit_code))

    def _last_failure(self, child: Child, exit_code: int) -> str:
        path = self.log_path(child.name)
        times = self._restart_rule.max_failures + 1
        return "\n".join(
            [
                f"{child.name} {describe_exit(exit_code)}, {times} times in a row without progress; "
                f"last lines of {path}:",
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
                log.warning("%s did not exit within %.0f s of SIGTERM; sent SIGKILL", watched.child.name, grace_seconds)
                _kill_group(process.pid)
                await asyncio.wait([keeper])
        await cancel_all([keeper])  # one that backs off, or is about to start, has no process to wait for
        watched.state = ChildState.ENDED

    def _propagate(self, keeper: asyncio.Task[None]) -> None:
        """A keeper that fails by itself (no such program, disk full) fails the run."""
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None and not self._ending.done():
            self._ending.set_exception(error)


def describe_exit(exit_code: int) -> str:
    """The exit code in words: negative ones are signals."""
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    return f"was killed by {signal.Signals(-exit_code).name}"


def last_error(path: Path, begin: int = 0) -> str:
    """The log's last line that names an error, else its last line; `begin`: where to look from. [bytes]"""
    lines = tail(path, num_lines=ERROR_LINES, begin=begin)
    errors = (match[1] for line in reversed(lines) if (match := ERROR_LINE.match(line)))
    return next(errors, lines[-1] if lines else "")[:MAX_ERROR_CHARS]


def tail(path: Path, *, num_lines: int, begin: int = 0) -> list[str]:
    """The last lines of a log that say something."""
    longest_bytes = 64 * 1024
    with path.open("rb") as file:
        file.seek(max(begin, path.stat().st_size - longest_bytes))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-num_lines:]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open_log(path: Path) -> BinaryIO:
    """For its owner only: what users' reward functions and models print may be secret."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
