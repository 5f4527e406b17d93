"""The isolated side: `python -I child.py SOURCE_FD LIMITS` becomes the program whose text SOURCE_FD holds.

In namespaces of its own it has no network, sees no other process, and finds every disk read-only but an empty /tmp in
memory. Standard library only. Exit code `NO_ISOLATION` comes from here and never from the program.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import NoReturn

NO_ISOLATION = 97
# <linux/sched.h>
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
# <linux/prctl.h>, <linux/mount.h>, <linux/capability.h>
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x4000, 0x40000, 0x2, 0x4
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
CAPABILITY_VERSION = 0x20080522
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def become(source: str, limits: dict[str, int]) -> NoReturn:
    """Isolate, and run the program in a child that is the first process of its world."""
    try:
        _unshare()
        pid = os.fork()
        if pid == 0:
            _hide_disks(limits["tmp_bytes"])
    except OSError as error:
        sys.stderr.write(f"no isolation: {error}")
        os._exit(NO_ISOLATION)
    if pid == 0:
        _limit(limits)
        _drop_privileges()
        exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})
        sys.exit(0)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(1 if exit_code == NO_ISOLATION or exit_code < 0 else exit_code)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare() -> None:
    uid, gid = os.getuid(), os.getgid()
    namespaces = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC
    _checked(libc.unshare(namespaces), "unshare")
    for file, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{file}", "w") as mapping:
            mapping.write(text)


def _hide_disks(tmp_bytes: int) -> None:
    _checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
    _checked(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    _checked(
        libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes)), "mount_setattr"
    )
    for folder, size in ((b"/proc", 0), (b"/tmp", tmp_bytes)):
        _checked(libc.mount(b"none", folder, b"tmpfs", MS_NOSUID | MS_NODEV, f"size={size or 4096}".encode()), "tmpfs")
    os.chdir("/tmp")


def _limit(limits: dict[str, int]) -> None:
    for name, amount in (
        ("AS", limits["memory_bytes"]),
        ("CPU", limits["cpu_seconds"]),
        ("FSIZE", limits["output_bytes"]),
        ("NPROC", limits["num_processes"]),
        ("NOFILE", 64),
        ("CORE", 0),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))


def _drop_privileges() -> None:
    """The rights over its own namespaces, too: it could make the disks writable again."""
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _checked(libc.capset(struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)), "capset")


if __name__ == "__main__":
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as source_file:
        text = source_file.read()
    become(text, json.loads(sys.argv[2]))
