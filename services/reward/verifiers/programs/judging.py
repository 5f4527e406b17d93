"""Tests that call the program: judged in a sandbox of the judge's own, beside that of the program.

JudgeHost     lives as long as the worker, and forks a judge for each program; one that a test broke is replaced
judged        consumes the judge's reports / waits for the next one / unblocked by it, by the judge's end, or by the
              limits of the program's tree and its test's time / produces the verdict
"""

import atexit
import json
import os
import socket
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any

from services.reward.verifiers.programs.settings import CodeSettings, ProgramVerdict, with_errors
from services.reward.verifiers.sandbox.isolation import Owner, ResourceLimits
from services.reward.verifiers.sandbox.program import file_of, text_of
from services.reward.verifiers.sandbox.session import Sandbox, SandboxWatch, sandbox

GRACE_SECONDS = 5.0  # of its own time, for a judge whose program has ended
MAX_REPORT_BYTES = 2**20


class JudgeError(ValueError):
    """The tests cannot judge this or any program: no score."""


class JudgeHost:
    """The judge's sandbox of this process, made when the first program needs it."""

    def __init__(self, limits: ResourceLimits) -> None:
        self._limits = limits
        self._pid = 0  # of the process that made it: a fork makes its own
        self._stack = ExitStack()
        self._of_parents: list[ExitStack] = []
        self._sandbox: Sandbox | None = None
        self._imported: set[str] = set()

    def sandbox(self, *imports: str) -> Sandbox:
        """Where a judge can be started. Raises `IsolationError`."""
        if self._pid != os.getpid():
            self._of_parents.append(self._stack)  # whose end would be that of the parent's sandbox
            self._pid, self._sandbox, self._stack = os.getpid(), None, ExitStack()
        if self._sandbox is None or not self._sandbox.is_alive:
            self.close()
            made = sandbox("", limits=self._limits, owner=Owner.JUDGE, modules=("judge.trial",))
            self._sandbox = self._stack.enter_context(made)
            atexit.register(self.close)
        if new := set(imports) - self._imported:
            self._sandbox.import_modules(*sorted(new))
            self._imported |= new
        return self._sandbox

    def close(self) -> None:
        """End it, and the judge that may be at work in it."""
        if self._pid == os.getpid():
            self._stack.close()
            self._sandbox, self._imported = None, set()


@dataclass(slots=True)
class _Progress:
    """What the judge has reported so far."""

    test: str = ""
    num_passed: int = 0
    num_tests: int = 0
    problems: list[str] = field(default_factory=list)
    end: Mapping[str, Any] | None = None

    def note(self, report: Mapping[str, Any]) -> None:
        """Raises `JudgeError` where the tests are refused."""
        match report:
            case {"event": "begin", "test": test}:
                self.test = test
            case {"event": "passed"}:
                self.num_passed += 1
            case {"event": "failed", "why": why}:
                self.fail(why)
            case {"event": "refused", "why": why}:
                raise JudgeError(why)
            case {"event": "end"}:
                self.end = report
                self.num_tests = report["tests"]

    def fail(self, why: str) -> None:
        self.problems.append(f"{self.test}: {why}")


def judged(
    program: str, plan: Mapping[str, Any], host: JudgeHost, settings: CodeSettings, *, imports: Collection[str] = ()
) -> ProgramVerdict:
    """Of a program whose functions are called from the judge's process. Raises `JudgeError`, `IsolationError`."""
    judge = host.sandbox(*imports)
    with ExitStack() as stack:
        box = stack.enter_context(sandbox(program, limits=settings.limits, modules=("calls.solution",)))
        to_program, to_judge = map(stack.enter_context, socket.socketpair())
        reports, reporting = map(stack.enter_context, socket.socketpair())
        output, errors, judge_output, judge_errors = (stack.enter_context(file_of()) for _ in range(4))
        # What tests print may be what they expect: no file of theirs is the program's.
        judge.begin("judge", (judge_output, judge_output, judge_errors), plan=plan, sockets=(to_judge, reporting))
        box.begin("serve", (output, output, errors), sockets=(to_program,))
        for one in (to_program, to_judge, reporting):
            one.close()
        progress = _followed(reports, [box, judge], settings.seconds)
        box.process.tree.kill()
        if SandboxWatch([judge], GRACE_SECONDS).wait(judge.process.control) or judge.exit_code() is None:
            host.close()
        return _verdict(progress, errors, judge_errors)


def judged_here(program: str, plan: Mapping[str, Any], settings: CodeSettings) -> ProgramVerdict:
    """Of a program whose tests need its own classes: they run in its process, and it can cheat."""
    with ExitStack() as stack:
        box = stack.enter_context(sandbox(program, limits=settings.limits, modules=("judge.trial",)))
        reports, reporting = map(stack.enter_context, socket.socketpair())
        nothing, errors = stack.enter_context(file_of()), stack.enter_context(file_of())
        box.begin("here", (nothing, nothing, errors), plan=plan, sockets=(reporting,))
        reporting.close()
        progress = _followed(reports, [box], settings.seconds)
        if progress.end is None and not progress.problems:
            progress.fail("the program ended")
        return _verdict(progress, errors, errors)


def _followed(reports: socket.socket, boxes: list[Sandbox], seconds: float) -> _Progress:
    """Until the judge has said all, or a limit is reached, which is the program's in whose time it happens."""
    progress = _Progress()
    supervisor = SandboxWatch(boxes, seconds)
    while progress.end is None:
        if cause := supervisor.wait(reports):
            progress.fail(cause)
            break
        report = _received(reports)
        if report is None:
            break
        progress.note(report)
        if report["event"] == "begin":
            supervisor.restart()
    return progress


def _verdict(progress: _Progress, errors: IO[bytes], judge_errors: IO[bytes]) -> ProgramVerdict:
    details = with_errors(progress.problems[0], text_of(errors)) if progress.problems else ""
    if progress.end is None:
        if not progress.problems:
            raise JudgeError(f"the tests ended the judge: {text_of(judge_errors).strip()[-500:] or 'no message'}")
        return ProgramVerdict(progress.num_passed, progress.num_passed + 1, details)
    if progress.end["uses"] == 0 and not progress.problems:
        raise JudgeError("the tests never use the program; expected a call of it")
    if progress.end["checks"] == 0 and not progress.problems:
        return ProgramVerdict(0, max(1, progress.num_tests), "no check of the tests was reached")
    return ProgramVerdict(progress.num_passed, progress.num_tests, details)


def _received(reports: socket.socket) -> Mapping[str, Any] | None:
    """The next report; None at the judge's end."""
    header = reports.recv(4, socket.MSG_WAITALL)
    length = int.from_bytes(header, "big")
    if len(header) < 4 or length > MAX_REPORT_BYTES:
        return None
    body = reports.recv(length, socket.MSG_WAITALL)
    return json.loads(body) if len(body) == length else None
