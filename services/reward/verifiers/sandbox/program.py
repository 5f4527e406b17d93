"""Runs one program in isolation, under a deadline and limits."""

import functools
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from services.reward.verifiers.sandbox.child import NO_ISOLATION

CHILD = Path(__file__).with_name("child.py")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class IsolationError(Exception):
    """Programs cannot be isolated on this machine."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What a program may use."""

    memory_bytes: int = 512 * 2**20  # address space
    cpu_seconds: int = 30
    output_bytes: int = 2**20  # of each file, and so of what it prints
    tmp_bytes: int = 16 * 2**20
    num_processes: int = 32


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    output: str
    exit_code: int | None  # None: its time was up

    @property
    def is_good(self) -> bool:
        """Whether it ended by itself and without an error."""
        return self.exit_code == 0


def run(source: str, given: str, *, seconds: float, limits: ResourceLimits) -> Ran:
    """Run Python source with `given` on its standard input. Raises `IsolationError`."""
    with _file(source) as program, _file(given) as stdin, _file() as stdout, _file() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", str(CHILD), str(program.fileno()), json.dumps(asdict(limits))],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[program.fileno()],
            env=ENVIRONMENT,
        )
        try:
            exit_code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            process.kill()  # its child, and all below, die with it
            process.wait()
        if exit_code == NO_ISOLATION:
            raise IsolationError(_text(stderr))
        return Ran(_text(stdout), exit_code)


@functools.cache
def require_isolation() -> None:
    """Raise `IsolationError` where programs cannot be isolated."""
    run("", "", seconds=30.0, limits=ResourceLimits())


def _file(text: str = "") -> IO[bytes]:
    """An open file without a name."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed by the caller
    file.write(text.encode(errors="replace"))
    file.seek(0)
    return file


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
