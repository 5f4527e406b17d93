"""Calls of the Linux kernel that Python does not offer; a failed one raises OSError with its name."""

import ctypes
import os
import signal
import struct

# <linux/sched.h>
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
# <linux/mount.h>
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MNT_DETACH = 0x1, 0x2, 0x2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# <linux/prctl.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 4, 38, 22, 2
# <linux/capability.h>
CAPABILITY_VERSION = 0x20080522
CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 5, 6, 7, 21

libc = ctypes.CDLL(None, use_errno=True)


def has_capabilities(*capabilities: int) -> bool:
    """Whether this process has them all, in whichever user namespace it is."""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return all(effective >> capability & 1 for capability in capabilities)


def die_with_parent() -> None:
    """To be repeated after each change of the user, which undoes it."""
    _checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")


def unshare(namespaces: int) -> None:
    _checked(libc.unshare(namespaces), "unshare")


def mount(source: str, target: str, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    _checked(libc.mount(*arguments), f"mount {source} on {target}")


def make_read_only(folder: str) -> None:
    """The mount and all below it."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    arguments = (SYS_MOUNT_SETATTR, AT_FDCWD, folder.encode(), AT_RECURSIVE, attributes, len(attributes))
    _checked(libc.syscall(*arguments), "mount_setattr")


def change_root(folder: str, old: str) -> None:
    """Make `folder`, a mount, the root; what was the root is at `old`, a folder in it."""
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root: unknown on {os.uname().machine}; expected {' or '.join(SYS_PIVOT_ROOT)}")
    _checked(libc.syscall(number, folder.encode(), old.encode()), "pivot_root")
    os.chdir("/")


def detach(folder: str) -> None:
    _checked(libc.umount2(folder.encode(), MNT_DETACH), f"umount {folder}")


def become_user(uid: int) -> None:
    """For good, in a group of the same number and in no other."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")  # or /proc/self would be root's


def be_dumpable(is_dumpable: bool) -> None:
    """Whether other processes of the user may look into this one."""
    _checked(libc.prctl(PR_SET_DUMPABLE, int(is_dumpable), 0, 0, 0), "prctl")


def drop_capabilities() -> None:
    """Those over its own namespaces, too: a program could make disks writable with them."""
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _checked(libc.capset(struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)), "capset")


def install_filter(program: bytes) -> None:
    """A filter of system calls, in the kernel's BPF."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    loaded = Program(len(program) // 8, program)
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0), "seccomp")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
