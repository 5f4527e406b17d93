"""A Redis of the tests' own, and a disk that is full for one process."""

import contextlib
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from services.local.redis_server import RedisServer, find_binary, free_port
from tests.support.waiting import wait_until


@contextmanager
def full_disk(process_id: int) -> Iterator[None]:
    """For that process no file takes another byte."""
    soft, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, (soft, hard))


class Redis:
    """A server that is killed and started again with the same data."""

    def __init__(self, folder: Path, *, options: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._options = options
        self._server = RedisServer(binary=find_binary(), port=free_port(), folder=folder, memory_limit_mb=256)
        self.port = self._server.port
        self.url = self._server.url
        self.start()

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        command = [*self._server.command(), *self._options]
        # Python ignores the signal of a full disk and so do its children, unless signals are restored.
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet, restore_signals=False)
        wait_until(self._answers, f"a server on port {self.port}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def written(self) -> tuple[Path, int]:
        """The append-only file, and its length."""
        path = max(self._folder.glob("appendonlydir/*.incr.aof"), key=lambda one: one.stat().st_mtime)
        return path, path.stat().st_size

    def full_disk(self) -> AbstractContextManager[None]:
        """No more room for its file."""
        return full_disk(self.process.pid)

    def _answers(self) -> bool:
        """Whether it has loaded its data: until then it accepts connections and refuses commands."""
        assert self.process.poll() is None, f"{self._server} exited with code {self.process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(b"PING\r\n")
                reply = connection.recv(64)
        except OSError:
            return False
        return bool(reply) and not reply.startswith(b"-LOADING")


StartRedis = Callable[..., AbstractContextManager[Redis]]


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[Redis]:
    """A server with its data in the folder, which ends with the block."""
    server = Redis(folder, options=options)
    try:
        yield server
    finally:
        server.kill()
