"""`tppo` processes that need not import torch: forked from one that has, so that hundreds of runs cost minutes.

    python -P -m tests.support.fork_server FOLDER     the server, until its standard input ends

`FOLDER/python` is what `sys.executable` is for a run: it stands in for each `tppo VERB`, and is the interpreter itself
for everything else. A stand-in hands its arguments, environment, folder and descriptors to the server, passes
signals on to the process that the server forks, and ends as that does; where it is killed, that is killed. So a
supervisor sees a process of its own; who wants to stop or limit the real one looks its id up (`real_process_id`).
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.waiting import wait_until
from tppo.process.tether import tether

STAND_IN = Path(__file__).with_name("stand_in.py")
PRELOADED = (
    "learner.__main__",
    "learner.build",
    "learner.commands.audit.__main__",
    "learner.commands.replay.__main__",
    "learner.commands.replay.replay",
    "learner.follower",
    "learner.persistence.rollback",
    "learner.preflight",
    "learner.ranks.process_group",
    "learner.replica",
    "learner.reporting.trackers.trackers",
    "learner.service",
    "matplotlib.pyplot",
    "pyarrow.parquet",
    "services.dashboard.__main__",
    "services.dashboard.build",
    "services.generation.__main__",
    "services.generation.build",
    "services.local.__main__",
    "services.local.launch",
    "services.local.results",
    "services.reward.__main__",
    "services.reward.build",
    "tppo.__main__",
    "transformers.models.auto.modeling_auto",
    "uvicorn",
)
MAX_MESSAGE_BYTES = 2**18  # of arguments and environment
MAX_DESCRIPTORS = 32
FIRST_HIGH = 500  # descriptors from here on are not in use


class ForkServer:
    """The server as a child of this process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.python = folder / "python"
        socket_path(folder).unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", __spec__.name, str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        wait_until(self._is_ready, "the fork server")

    def real_process_id(self, stand_in: int) -> int | None:
        """Of the process that the stand-in stands for; None while there is none, and for other processes."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(_note(self._folder, stand_in).read_text(encoding="ascii"))
        return None

    def close(self) -> None:
        """End it, with all that it has forked."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, f"the fork server exited with code {self._process.returncode}"
        return socket_path(self._folder).exists()


@dataclass(frozen=True, slots=True)
class Job:
    """What a stand-in hands over."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    descriptors: dict[int, int]  # that it was given, the standard streams among them: its number -> ours


class Server:
    """Forks a process for each connection; a connection that ends takes its process along."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._poll = select.poll()
        self._connections: dict[int, socket.socket] = {}  # by descriptor
        self._processes: dict[int, int] = {}  # process id by descriptor
        wake_up, self._exits = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)[::-1]
        signal.set_wakeup_fd(wake_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        beginning = folder / "beginning"
        beginning.unlink(missing_ok=True)
        self._listener.bind(str(beginning))
        self._listener.listen(64)
        beginning.rename(socket_path(folder))
        for descriptor in (0, self._exits, self._listener.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> Job | None:
        """In each forked process: what it is to do. None in the server, when its standard input has ended."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == 0:
                    self._end()
                    return None
                if descriptor == self._exits:
                    self._reap()
                elif descriptor == self._listener.fileno():
                    if (job := self._accept()) is not None:
                        return job
                elif descriptor in self._connections:
                    self._drop(descriptor)

    def _accept(self) -> Job | None:
        connection, _ = self._listener.accept()
        message, received, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not message:
            connection.close()
            return None
        wanted = json.loads(message)
        process_id = os.fork()
        if process_id == 0:
            self._forget(connection)
            descriptors = dict(zip(wanted["descriptors"], received, strict=True))
            return Job(wanted["arguments"], wanted["environment"], wanted["folder"], descriptors)
        for descriptor in received:
            os.close(descriptor)
        _note(self._folder, wanted["process_id"]).write_text(f"{process_id}", encoding="ascii")
        self._connections[connection.fileno()] = connection
        self._processes[connection.fileno()] = process_id
        self._poll.register(connection.fileno(), select.POLLIN)
        _send(connection, started=process_id)
        return None

    def _forget(self, connection: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for one in (*self._connections.values(), connection, self._listener):
            one.close()

    def _reap(self) -> None:
        os.read(self._exits, 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _kill_group(ended[0])
                descriptors = [one for one, process_id in self._processes.items() if process_id == ended[0]]
                for descriptor in descriptors:
                    del self._processes[descriptor]
                    _send(self._connections[descriptor], exited=os.waitstatus_to_exitcode(ended[1]))
                    self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        """Its stand-in has ended, or is about to."""
        self._poll.unregister(descriptor)
        self._connections.pop(descriptor).close()
        if (process_id := self._processes.pop(descriptor, None)) is not None:
            _kill_group(process_id)

    def _end(self) -> None:
        for process_id in self._processes.values():
            _kill_group(process_id)


def socket_path(folder: Path) -> Path:
    """Where stand-ins reach the server."""
    return folder / "server"


def _note(folder: Path, stand_in: int) -> Path:
    return folder / f"process-{stand_in}"


def _send(connection: socket.socket, **fact: int) -> None:
    with contextlib.suppress(OSError):  # its stand-in was killed
        connection.send(json.dumps(fact).encode())


def _kill_group(process_id: int) -> None:
    """The process itself too: it may not have begun its group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(process_id, signal.SIGKILL)


def _become(job: Job, python: Path, server: int) -> None:
    os.setsid()
    tether(server)
    high = {number: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, FIRST_HIGH) for number, ours in job.descriptors.items()}
    for ours in job.descriptors.values():
        os.close(ours)
    for number, ours in high.items():  # none of ours is in the way up there
        os.dup2(ours, number)
        os.close(ours)
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    random.seed()
    sys.executable = str(python)
    sys.argv = ["tppo", *job.arguments]


def _write_stand_in(folder: Path) -> None:
    path = folder / "python"
    words = " ".join(f"'{word}'" for word in (sys.executable, "-I", "-S", STAND_IN, sys.executable, folder))
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


def main() -> int:
    """Import, listen, and in each forked process be `tppo`."""
    folder = Path(sys.argv[1])
    for module in PRELOADED:
        importlib.import_module(module)
    _write_stand_in(folder)
    gc.collect()
    gc.freeze()  # the collectors of what is forked leave these pages shared
    process_id = os.getpid()
    job = Server(folder).serve()
    if job is None:
        return 0
    _become(job, folder / "python", process_id)
    tppo: Any = importlib.import_module("tppo.__main__")
    return int(tppo.main())


if __name__ == "__main__":
    raise SystemExit(main())
