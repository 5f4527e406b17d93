"""The process that workers are forked from: `python -m ...workers.fork_server FD MEMORY_LIMIT_BYTES SPEC...`

A worker that was killed is replaced by a fork: milliseconds, however much the built-in functions import.

    consumes a socket for each new worker, sent over the control socket FD / waits for the next one
    unblocked by the service asking for a worker, or ending / produces workers, and on stdout a line of JSON for
    each birth and each death, in that order
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
from services.reward.workers import worker


class Nursery:
    """Forks a worker for each socket that arrives; when the service ends, so do the nursery and all its workers."""

    def __init__(self, control: socket.socket, specs: Sequence[str], *, memory_limit_bytes: int, reports: int) -> None:
        self._control = control
        self._specs = specs
        self._memory_limit_bytes = memory_limit_bytes
        self._reports = reports
        self._living: set[int] = set()

    def serve(self) -> None:
        """Fork until the control socket closes."""
        signal.signal(signal.SIGCHLD, lambda *_: self._report_deaths())
        while fds := socket.recv_fds(self._control, 1, maxfds=1)[1]:
            with socket.socket(fileno=fds[0]) as connection:
                self._fork(connection)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _fork(self, connection: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # so that birth is reported before death
        pid = os.fork()
        if pid == 0:
            self._become_worker(connection)
        os.setpgid(pid, pid)  # killing the group takes the worker's own children along
        self._living.add(pid)
        self._report(born=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _become_worker(self, connection: socket.socket) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        self._control.close()
        os.close(self._reports)
        worker.run(connection, self._specs, memory_limit_bytes=self._memory_limit_bytes)

    def _report_deaths(self) -> None:
        while self._living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._living.discard(pid)
            self._report(died=pid, cause=death_cause(os.waitstatus_to_exitcode(status)))

    def _report(self, **fact: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the service is gone, which `serve` notices
            os.write(self._reports, json.dumps(fact).encode() + b"\n")


def death_cause(exit_code: int) -> str:
    """An exit code, negative for a signal, in words."""
    if exit_code < 0:
        return f"the worker was killed by {signal.Signals(-exit_code).name}"
    return f"the worker exited with code {exit_code}"


def main(argv: Sequence[str]) -> None:
    """Serve until the service ends; only its end ends the nursery, not the Ctrl-C that reaches the whole group."""
    control, memory_limit_bytes, *specs = argv
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    reports = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what functions print belongs in the log
    preload(specs)
    gc.freeze()  # the workers' collectors leave these pages shared
    with socket.socket(fileno=int(control)) as connection:
        Nursery(connection, specs, memory_limit_bytes=int(memory_limit_bytes), reports=reports).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
