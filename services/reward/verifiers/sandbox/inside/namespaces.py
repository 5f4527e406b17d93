"""Namespaces of its own for a program, and in them a root that holds the interpreter and libraries alone."""

import os
from collections.abc import Sequence
from pathlib import Path

from . import kernel

NOBODY = 65534
NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
OLD_ROOT = "/old"


def leave(uid: int | None) -> None:
    """Leave the machine's namespaces; the next child is the first process of its own world.

    Who may mount needs no user namespace, and takes the program's user, `uid`, when all is mounted. Others take it
    first: the kernel does not hold root to a limit on processes, whatever a user namespace calls it.
    """
    if kernel.has_capabilities(kernel.CAP_SYS_ADMIN):
        kernel.unshare(NAMESPACES)
        return
    if uid is not None:
        kernel.become_user(uid)
        kernel.die_with_parent()
    real_uid, real_gid = os.getuid(), os.getgid()
    kernel.unshare(NAMESPACES | kernel.CLONE_NEWUSER)
    mappings = (("setgroups", "deny"), ("uid_map", f"{NOBODY} {real_uid} 1"), ("gid_map", f"{NOBODY} {real_gid} 1"))
    for file, text in mappings:
        try:
            Path("/proc/self", file).write_text(text)
        except OSError as error:
            raise OSError(error.errno, f"write {file}: {error.strerror}") from error


def build_root(readable: Sequence[str], *, tmp_bytes: int) -> None:
    """Make a root of the files and folders `readable`, an empty /proc, a few devices, and a /tmp in memory."""
    os.umask(0o022)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("none", "/tmp", kind="tmpfs", flags=kernel.MS_NOSUID, options="size=1048576,mode=755")
    os.mkdir(f"/tmp{OLD_ROOT}")
    kernel.change_root("/tmp", f"/tmp{OLD_ROOT}")
    for path in (*readable, *DEVICES):
        _show(path)
    for folder in ("/proc", "/tmp"):
        os.makedirs(folder, exist_ok=True)
    os.symlink("/tmp", "/dev/shm")
    kernel.detach(OLD_ROOT)
    os.rmdir(OLD_ROOT)
    kernel.make_read_only("/")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/tmp", kind="tmpfs", flags=flags, options=f"size={tmp_bytes},mode=1777")
    os.chdir("/tmp")


def _show(path: str) -> None:
    """At the same place in the new root; a link as a link."""
    source = f"{OLD_ROOT}{path}"
    if os.path.lexists(path) or not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
        return
    if os.path.isdir(source):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, path, flags=kernel.MS_BIND | kernel.MS_REC)
