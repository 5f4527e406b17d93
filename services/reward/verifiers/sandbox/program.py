"""Starts a process in isolation: one program with its deadline, or the first process of a sandbox of many.

A way of isolation is taken when it withstands an attack on it, made once in each process.
"""

import functools
import logging
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.reward.verifiers.sandbox import cgroup
from services.reward.verifiers.sandbox.inside.entry import READY
from services.reward.verifiers.sandbox.isolation import Owner, ResourceLimits, Route, command, routes
from services.reward.verifiers.sandbox.tree import Tree

log = logging.getLogger(__name__)

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
START_SECONDS = 60.0  # for the interpreter to start and isolate itself, on a machine whose cores are all busy
EXIT_SECONDS = 10.0
_allowed: list[Route] = []
CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group
ATTACK = """
import os, signal, socket
found = ["the rights of root"] if os.getuid() == 0 else []
if os.path.exists({secret!r}):
    found.append("the service's files")
if os.listdir("/proc") or os.getpid() != 1:
    found.append("other processes")
try:
    socket.create_connection(("127.0.0.1", {port}), 10.0).close()
    found.append("the network")
except OSError:
    pass
print(*(found or ["nothing"]), sep=", ", flush=True)
for _ in range(4 * {num_processes}):
    try:
        if os.fork() == 0:
            signal.pause()
    except BlockingIOError:
        break
else:
    print("more processes than the limit")
"""


class IsolationError(Exception):
    """Programs cannot be isolated on this machine."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    output: str
    errors: str
    exit_code: int | None  # None: it was ended
    cause: str = ""  # of that

    @property
    def is_good(self) -> bool:
        """Whether it ended by itself and without an error."""
        return self.exit_code == 0


def run(source: str, given: str, *, seconds: float, limits: ResourceLimits) -> Ran:
    """Run Python source with `given` on its standard input. Raises `IsolationError`."""
    return _run(isolation(), source, given, seconds=seconds, limits=limits)


def allow_unsandboxed() -> None:
    """In this process, and in those forked from it, programs run with all rights where nothing isolates them."""
    _allowed.append(Route.UNSANDBOXED)


@functools.cache
def isolation() -> Route:
    """The first way that holds here. Raises `IsolationError` where none does and one is required."""
    failures = []
    for route in routes():
        try:
            _require_that_it_holds(route)
        except IsolationError as error:
            failures.append(f"{route}: {error}")
        else:
            return route
    if Route.UNSANDBOXED not in _allowed:
        raise IsolationError("; ".join(failures))
    log.warning("programs of `code` run unsandboxed, with all rights of the service (%s)", "; ".join(failures))
    return Route.UNSANDBOXED


def _require_that_it_holds(route: Route) -> None:
    limits = ResourceLimits(num_processes=4)
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        attack = ATTACK.format(secret=secret.name, port=port, num_processes=limits.num_processes)
        ran = _run(route, attack, "", seconds=START_SECONDS, limits=limits)
    if ran.output.splitlines() != ["nothing"]:
        raise IsolationError(f"a program that tried it reached {ran.output.strip() or ran.errors.strip()}")


def _run(route: Route, source: str, given: str, *, seconds: float, limits: ResourceLimits) -> Ran:
    with ExitStack() as stack:
        stdin, stdout, stderr = (stack.enter_context(file_of(text)) for text in (given, "", ""))
        process = stack.enter_context(isolated(route, source, (stdin, stdout, stderr), limits=limits))
        process.control.send(b"\0")
        cause = process.tree.watch(seconds, memory_bytes=limits.memory_bytes, num_processes=limits.num_processes)
        return Ran(text_of(stdout), text_of(stderr), None if cause else process.popen.wait(EXIT_SECONDS), cause)


@dataclass(frozen=True, slots=True)
class Isolated:
    """A process that is isolated and waits for a byte to begin."""

    popen: "subprocess.Popen[bytes]"
    tree: Tree
    control: socket.socket


@contextmanager
def isolated(
    route: Route,
    source: str,
    files: tuple[IO[bytes], IO[bytes], IO[bytes]],
    *,
    limits: ResourceLimits,
    owner: Owner = Owner.PROGRAM,
    modules: Sequence[str] | None = None,
) -> Iterator[Isolated]:
    """The process, until the end of the context; with `modules` it takes commands. Raises `IsolationError`."""
    with ExitStack() as stack:
        program = stack.enter_context(file_of(source))
        groups = stack.enter_context(cgroup.group_of(_group_parents(limits), owner))
        ours, theirs = map(stack.enter_context, socket.socketpair())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        arguments = command(
            *(route, limits), status_fd=theirs.fileno(), source_fd=program.fileno(), owner=owner, modules=modules
        )
        popen = stack.enter_context(_started(arguments, files=files, passed=(theirs.fileno(), program.fileno())))
        theirs.close()
        pid = _ready_process(ours, files[2])
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        tree = stack.enter_context(Tree(pid, is_namespace=route is not Route.UNSANDBOXED))
        for group in groups:
            Path(group).write_text(str(pid))
        yield Isolated(popen, tree, ours)


@contextmanager
def _started(
    arguments: Sequence[str], *, files: tuple[IO[bytes], IO[bytes], IO[bytes]], passed: Sequence[int]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own, which a program's signals to its group do not leave."""
    stdin, stdout, stderr = files
    process = subprocess.Popen(
        arguments,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=passed,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _ready_process(ours: socket.socket, stderr: IO[bytes]) -> int:
    """The process that is about to become the program."""
    ours.settimeout(START_SECONDS)
    try:
        message, ancillary, _, _ = ours.recvmsg(len(READY), socket.CMSG_SPACE(CREDENTIALS.size))
    except TimeoutError:
        raise IsolationError(f"the sandbox was not ready within {START_SECONDS:g} s") from None
    if message != READY:
        raise IsolationError(text_of(stderr).strip().removeprefix("no isolation: ") or "the sandbox ended silently")
    pid, _, _ = CREDENTIALS.unpack(ancillary[0][2])
    return int(pid)


@functools.cache
def _group_parents(limits: ResourceLimits) -> Sequence[cgroup.Parent]:
    """The group holds what a program has in memory, and its /tmp."""
    return cgroup.writable_parents(limits.memory_bytes + limits.tmp_bytes, limits.num_processes)


def file_of(text: str = "") -> IO[bytes]:
    """An open file without a name."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed by the caller
    file.write(text.encode(errors="replace"))
    file.seek(0)
    return file


def text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
