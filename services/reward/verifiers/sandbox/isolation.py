"""The ways to isolate a program on this machine, and the command line of each."""

import functools
import json
import os
import pwd
import random
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from services.reward.verifiers.sandbox.inside import kernel, namespaces

INSIDE = Path(__file__).with_name("inside")
BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from inside.entry import main; main()"
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
MIN_OWN_UID, MAX_OWN_UID = 2**30, 2**31 - 2
MANY_UIDS = 1000


class Route(StrEnum):
    """Who makes the namespaces."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    UNSANDBOXED = "unsandboxed"


class Owner(StrEnum):
    """Whose code a process runs."""

    PROGRAM = "program"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What a program may use."""

    memory_bytes: int = 512 * 2**20  # address space of each process, and memory of all together
    cpu_seconds: int = 30
    output_bytes: int = 2**20  # of each file, and so of what it prints
    tmp_bytes: int = 16 * 2**20
    num_processes: int = 32  # and threads


def routes() -> Sequence[Route]:
    """Those to try here, the best first."""
    # As root bubblewrap takes no user namespace, nor should it: the kernel does not hold root to a limit on processes.
    can_mount = os.geteuid() != 0 or kernel.has_capabilities(kernel.CAP_SYS_ADMIN)
    return (Route.BUBBLEWRAP, Route.NAMESPACES) if can_mount and shutil.which("bwrap") else (Route.NAMESPACES,)


def command(
    route: Route, limits: ResourceLimits, *, status_fd: int, source_fd: int, owner: Owner, modules: Sequence[str] | None
) -> Sequence[str]:
    """Starts the process that becomes the program, or, with `modules` of `inside` that it needs, a host of several."""
    is_inside = route is Route.BUBBLEWRAP  # where the files lie at other places
    plan = {
        "route": route,
        "uid": own_uid(os.getpid(), owner),
        "is_host": modules is not None,
        "modules": modules or (),
        "limits": asdict(limits),
        "readable": _readable(),
        "libraries": _libraries(),
    }
    arguments = ("/" if is_inside else str(INSIDE.parent), str(status_fd), str(source_fd), json.dumps(plan))
    return (*(_bubblewrap(limits.tmp_bytes) if is_inside else ()), _python(), "-I", "-c", BOOT, *arguments)


@functools.cache
def own_uid(worker: int, owner: Owner) -> int | None:
    """A user whom nobody else is, for the programs of the process `worker`, and another for its judge; None: no such.

    The kernel counts processes by user, whatever container they are in: two workers' programs must not share one.
    """
    needed = (kernel.CAP_KILL, kernel.CAP_SETGID, kernel.CAP_SETUID)
    if os.geteuid() != 0 or not kernel.has_capabilities(*needed):
        return None
    mappings = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first, _, count = max(mappings, key=lambda mapping: mapping[2])
    if count < MANY_UIDS:
        return None
    # The upper half of what a user namespace maps: accounts are numbered from below.
    lowest, highest = first + count // 2, first + count - 1
    if highest > MAX_OWN_UID:
        lowest, highest = MIN_OWN_UID, MAX_OWN_UID
    taken = {account.pw_uid for account in pwd.getpwall()} | {namespaces.NOBODY}
    return random.SystemRandom().choice([*set(random.sample(range(lowest, highest), MANY_UIDS // 2)) - taken])


def _bubblewrap(tmp_bytes: int) -> Sequence[str]:
    arguments = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    if os.geteuid() == 0:
        arguments += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        nobody = str(namespaces.NOBODY)
        arguments += ["--unshare-user", "--uid", nobody, "--gid", nobody]
    arguments += ["--die-with-parent", "--new-session", "--as-pid-1", "--ro-bind", str(INSIDE), "/inside"]
    # Bubblewrap would make a folder above something private one that only root enters.
    for folder in sorted(
        {str(parent) for path in (*_readable(), *namespaces.DEVICES) for parent in Path(path).parents}
    ):
        arguments += ["--dir", folder]
    for path in _readable():
        arguments += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for device in namespaces.DEVICES:
        arguments += ["--dev-bind", device, device]
    arguments += ["--symlink", "/tmp", "/dev/shm", "--dir", "/proc", "--dir", "/tmp", "--remount-ro", "/"]
    return (*arguments, "--size", str(tmp_bytes), "--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/tmp")


@functools.cache
def _readable() -> Sequence[str]:
    """What a program finds in its root: interpreter and libraries, and a link where the system has one."""
    interpreter = (_python(), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), _shared_libraries())
    real = sorted({os.path.realpath(path) for path in (*interpreter, *_libraries()) if path})
    found = [path for path in (*SYSTEM_LIBRARIES, *real) if os.path.lexists(path)]
    return [path for path in found if not any(path != outer and Path(path).is_relative_to(outer) for outer in found)]


def _libraries() -> Sequence[str]:
    """Folders of installed packages."""
    named = {"site-packages", "dist-packages"}
    return [os.path.realpath(path) for path in sys.path if Path(path).name in named and os.path.isdir(path)]


def _python() -> str:
    """The interpreter itself; a virtual environment's would need the environment around it."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _shared_libraries() -> str:
    """Where libpython is, if there is one."""
    return sysconfig.get_config_var("LIBDIR") or ""
