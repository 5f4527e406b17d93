"""A sandbox that is made once and runs several things, one after the other."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from select import select
from typing import IO, Any

from services.reward.verifiers.sandbox.isolation import Owner, ResourceLimits
from services.reward.verifiers.sandbox.program import START_SECONDS, Isolated, file_of, isolated, isolation
from services.reward.verifiers.sandbox.stopwatch import Stopwatch
from services.reward.verifiers.sandbox.tree import POLL_SECONDS

Files = tuple[IO[bytes], IO[bytes], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """An isolated host, which forks a child for each command."""

    process: Isolated
    limits: ResourceLimits

    def begin(
        self, role: str, files: Files, *, plan: Mapping[str, Any] | None = None, sockets: Sequence[socket.socket] = ()
    ) -> None:
        """Start a child; whether the sandbox is still there shows when its exit code is awaited."""
        body = json.dumps({"role": role, "plan": plan or {}}).encode()
        fds = [*(one.fileno() for one in files), *(one.fileno() for one in sockets)]
        try:
            socket.send_fds(self.process.control, [len(body).to_bytes(4, "big")], fds)
            self.process.control.sendall(body)
        except OSError:
            return

    def exit_code(self) -> int | None:
        """Of the child that has ended, when the control socket has become readable; None: the whole sandbox ended."""
        try:
            self.process.control.settimeout(START_SECONDS)
            code = self.process.control.recv(4, socket.MSG_WAITALL)
        except OSError:
            code = b""
        return int.from_bytes(code, "big", signed=True) if len(code) == 4 else None

    @property
    def is_alive(self) -> bool:
        """Whether it takes another command."""
        return not select([self.process.control], [], [], 0)[0]

    def import_modules(self, *modules: str) -> None:
        """Have its children find these imported; for a sandbox that outlives many of them."""
        with file_of() as nothing:
            self.begin("import", (nothing, nothing, nothing), plan={"modules": modules})
            self.exit_code()


@contextmanager
def sandbox(
    source: str, *, limits: ResourceLimits, owner: Owner = Owner.PROGRAM, modules: Sequence[str] = ()
) -> Iterator[Sandbox]:
    """Without a child yet. Raises `IsolationError`."""
    with ExitStack() as stack:
        stdin, stdout, stderr = (stack.enter_context(file_of()) for _ in range(3))
        files = (stdin, stdout, stderr)
        process = stack.enter_context(isolated(isolation(), source, files, limits=limits, owner=owner, modules=modules))
        process.control.send(b"\0")
        yield Sandbox(process, limits)


class SandboxWatch:
    """Waits for what sandboxes send, while it holds them to their limits and to the seconds that a test has."""

    def __init__(self, sandboxes: Sequence[Sandbox], seconds: float) -> None:
        self._sandboxes = sandboxes
        self._seconds = seconds
        self._stopwatch = Stopwatch([one.process.tree for one in sandboxes])

    def restart(self) -> None:
        """Another test begins."""
        self._stopwatch.restart()

    def wait(self, *awaited: socket.socket) -> str:
        """Until one of them has something to read: '', or the limit that was reached before."""
        while not select(awaited, [], [], POLL_SECONDS)[0]:
            if self._stopwatch.look() > self._seconds:
                return f"not done within {self._seconds:g} s of its own time"
            for one in self._sandboxes:
                limits = one.limits
                violation = one.process.tree.violation(
                    memory_bytes=limits.memory_bytes, num_processes=limits.num_processes
                )
                if violation:
                    return violation
        return ""
