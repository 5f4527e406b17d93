"""Runs programs in the sandbox of another process, as this user or as another: `attacked` says how they ended.

Nothing here is a real bomb: each attack is bounded by itself, so that a sandbox that does not hold harms nobody.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import services
from services.reward.verifiers.sandbox.program import Ran
from tests.support.waiting import DEADLINE_SECONDS

PACKAGE = "services/reward/verifiers/sandbox"
OTHER_UID = 12345
MEMORY_BYTES = 128 * 2**20
RUNNER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dataclasses import asdict
from services.reward.verifiers.sandbox import program
from services.reward.verifiers.sandbox.isolation import ResourceLimits, Route
given = json.load(sys.stdin)
limits = ResourceLimits(memory_bytes=given["memory_bytes"])
if not given["has_groups"]:
    program._group_parents = lambda limits: []
ran = program._run(Route(given["route"]), given["source"], "", seconds=given["seconds"], limits=limits)
print(json.dumps(asdict(ran)))
"""


@dataclass(frozen=True)
class Attacker:
    """Whose service runs the program, and how the program is isolated."""

    prefix: Sequence[str]  # of the command, which makes it another user's
    python: str
    package: Path
    route: str

    def ran(
        self,
        source: str,
        *,
        seconds: float = DEADLINE_SECONDS,
        has_groups: bool = True,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Ran:
        """How a program with this source ends there."""
        given = {
            "route": self.route,
            "source": source,
            "seconds": seconds,
            "has_groups": has_groups,
            "memory_bytes": memory_bytes,
        }
        done = subprocess.run(
            [*self.prefix, self.python, "-c", RUNNER, str(self.package)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_SECONDS,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        return Ran(**json.loads(done.stdout))


@contextmanager
def attacker(user: str, route: str) -> Iterator[Attacker]:
    """As `root` or `other`; skips the test where this process may not become that user, or the route is missing."""
    if route == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    is_root = os.geteuid() == 0
    if user == "root" and not is_root:
        pytest.skip("only root can try what root's sandbox holds")
    prefix = _as_other_user() if user == "other" and is_root else ()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder)
        package.chmod(0o755)
        shutil.copytree(Path(services.__file__).parent.parent / PACKAGE, package / PACKAGE)  # a checkout may be private
        yield Attacker(prefix, _python(prefix), package, route)


def command_lines() -> Iterator[str]:
    """Of all processes on this machine that show theirs."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            yield (process / "cmdline").read_bytes().decode(errors="replace")


def _as_other_user() -> Sequence[str]:
    ids = (f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups")
    return ("setpriv", *ids, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


def _python(prefix: Sequence[str]) -> str:
    """An interpreter that the user may run: this one may lie in a private folder."""
    version = f"python3.{sys.version_info.minor}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/{version}", "/usr/bin/python3"):
        check = "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.executable, os.X_OK))"
        try:
            if (
                subprocess.run([*prefix, python, "-c", check], capture_output=True, check=False, cwd="/").returncode
                == 0
            ):
                return python
        except FileNotFoundError:
            pytest.skip("setpriv is not installed")
    pytest.skip("no Python 3.11 or newer that another user may run")
