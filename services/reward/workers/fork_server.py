"""The process that workers are forked from: `python -m ...workers.fork_server FD LIMITS SPEC...`

A worker that was killed is replaced by a fork: milliseconds, however much the built-in functions import.

    consumes a socket for each new worker, sent over the control socket FD / waits for the next one
    unblocked by the service when it needs a worker, or when it ends / produces workers, and on stdout a line of JSON
    for each start and each exit of a worker, in that order
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence

from services.reward.verifiers.functions import preload
from services.reward.verifiers.sandbox.program import allow_unsandboxed
from services.reward.workers import worker
from services.reward.workers.worker import WorkerLimits


class ForkServer:
    """Forks a worker for each socket that arrives; when the service ends, the server ends with all its workers."""

    def __init__(self, control: socket.socket, limits: WorkerLimits, *, reports: int) -> None:
        self._control = control
        self._limits = limits
        self._reports = reports
        self._pids: set[int] = set()

    def serve(self) -> None:
        """Fork until the control socket closes."""
        signal.signal(signal.SIGCHLD, lambda *_: self._report_exits())
        while fds := socket.recv_fds(self._control, 1, maxfds=1)[1]:
            with socket.socket(fileno=fds[0]) as connection:
                self._fork(connection)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _fork(self, connection: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # so that the start is reported before the exit
        pid = os.fork()
        if pid == 0:
            self._become_worker(connection)
        os.setpgid(pid, pid)  # killing the group takes the worker's own children along
        self._pids.add(pid)
        self._report(started=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _become_worker(self, connection: socket.socket) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        self._control.close()
        os.close(self._reports)
        worker.run(connection, self._limits)

    def _report_exits(self) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._pids.discard(pid)
            self._report(exited=pid, cause=exit_cause(os.waitstatus_to_exitcode(status)))

    def _report(self, **fact: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the service is gone, which `serve` notices
            os.write(self._reports, json.dumps(fact).encode() + b"\n")


def exit_cause(exit_code: int) -> str:
    """An exit code, negative for a signal, in words."""
    if exit_code < 0:
        return f"the worker was killed by {signal.Signals(-exit_code).name}"
    return f"the worker exited with code {exit_code}"


def main(argv: Sequence[str]) -> None:
    """Serve until the service ends; only its end ends this process, not the Ctrl-C that reaches the whole group."""
    control, limits_text, *specs = argv
    limits = WorkerLimits(**json.loads(limits_text))
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    reports = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what functions print belongs in the log
    if limits.allow_unsandboxed:
        allow_unsandboxed()
    preload(specs)
    gc.freeze()  # the workers' collectors leave these pages shared
    with socket.socket(fileno=int(control)) as connection:
        ForkServer(connection, limits, reports=reports).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
