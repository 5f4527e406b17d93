"""The first process of a sandbox: isolated once, it forks a child for each thing to do there, one after the other.

serve     consumes commands with their files, over the control socket / waits for the next
          unblocked by the service, or by its end / produces a child, and an exit code when the child and all that it
          left behind are gone

A child runs other people's code and the host never does. Neither can it reach the host: it has no file of it, nor has
the host a signal to be ended by, as the first process of a PID namespace.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import kernel

MAX_FILES = 8
HEADER_BYTES = 4
FOLDER = "/tmp"
OWN_FRAMES = 50  # below the program's first
STANDARD_FILES = (0, 1, 2)


@dataclass(frozen=True)
class ChildTask:
    """What a child is to do, and the sockets that it gets for that."""

    role: str
    plan: Mapping[str, Any]
    sockets: list[socket.socket]


def serve(control: socket.socket) -> ChildTask:
    """Fork a child for each command, until the service is gone. Returns in the child alone, with its command."""
    is_first = os.getpid() == 1  # of a PID namespace, so that all other processes in it are a child's
    if is_first:
        kernel.be_dumpable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # children leave these pages shared
    while received := _received(control):
        role, plan, fds = received
        if role == "import":
            _import(plan["modules"])
            _answer(control, 0)
            continue
        if (pid := os.fork()) == 0:
            control.close()
            return _command_of_child(role, plan, fds)
        for fd in fds:
            os.close(fd)
        _answer(control, _exit_code(pid, is_first=is_first))
    os._exit(0)


def _command_of_child(role: str, plan: Mapping[str, Any], fds: list[int]) -> ChildTask:
    sys.setrecursionlimit(sys.getrecursionlimit() + OWN_FRAMES)
    os.setsid()  # kill(0) reaches nobody above
    kernel.be_dumpable(True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, fd in zip(STANDARD_FILES, fds, strict=False):
        os.dup2(fd, target)
        os.close(fd)
    return ChildTask(role, plan, [socket.socket(fileno=fd) for fd in fds[len(STANDARD_FILES) :]])


def _received(control: socket.socket) -> tuple[str, Mapping[str, Any], list[int]] | None:
    try:
        header, fds, _, _ = socket.recv_fds(control, HEADER_BYTES, MAX_FILES)
        body = bytearray()
        while header and len(body) < int.from_bytes(header, "big"):
            part = control.recv(int.from_bytes(header, "big") - len(body))
            if not part:
                return None
            body += part
    except OSError:
        return None
    if not header:
        return None
    command = json.loads(bytes(body))
    return command["role"], command["plan"], fds


def _import(modules: list[str]) -> None:
    """For all children after it; a module that is missing is theirs to miss."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            sys.stderr.write(f"{error}\n")


def _exit_code(pid: int, *, is_first: bool) -> int:
    """When the child has ended, and all that it left behind is gone."""
    _, status = os.waitpid(pid, 0)
    try:
        if is_first:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    if is_first:
        _empty_folder()
    return os.waitstatus_to_exitcode(status)


def _empty_folder() -> None:
    """The sandbox's own /tmp, as far as a program let it be emptied."""
    try:
        for folder, folders, files in os.walk(FOLDER, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in folders:
                path = os.path.join(folder, name)
                (os.unlink if os.path.islink(path) else os.rmdir)(path)
    except (OSError, RecursionError):
        return


def _answer(control: socket.socket, exit_code: int) -> None:
    try:
        control.sendall(exit_code.to_bytes(4, "big", signed=True))
    except OSError:
        os._exit(0)
