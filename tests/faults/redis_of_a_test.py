"""A Redis that belongs to one test, and a disk that is full for one process."""

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from services.local.redis_server import RedisServer, find_binary, free_port


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

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._server = RedisServer(binary=find_binary(), port=free_port(), folder=folder, memory_limit_mb=256)
        self.port = self._server.port
        self.start()

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        # Python ignores the signal of a full disk and so do its children, unless signals are restored.
        self.process = subprocess.Popen(self._server.command(), stdout=quiet, stderr=quiet, restore_signals=False)

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
