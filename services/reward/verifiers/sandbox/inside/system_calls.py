"""Which system calls a program may not make, as a seccomp filter.

Those that lead out of its namespaces or into more of them; those whose memory no limit counts (System V, memfd,
io_uring); sockets that no network namespace holds, such as a virtual machine's to its host; and the one by which it
would outlive the service.
"""

import errno
import os
import socket
import struct

from . import kernel

# name: (number on x86_64, number on aarch64), from <asm/unistd.h>
REFUSED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
CLONE, SOCKET, CLONE3, PRCTL = (56, 220), (41, 198), (435, 435), (157, 167)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH of <linux/audit.h>
X32 = 0x40000000  # calls of x86_64 by another numbering
NEW_NAMESPACES = 0x7E020080  # CLONE_NEW* of <linux/sched.h>
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
# <linux/bpf_common.h>, <linux/seccomp.h>
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian


def refuse_system_calls() -> None:
    """From here on, in this process and all below it."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(f"no filter of system calls for {machine}; expected {' or '.join(MACHINES)}")
    kernel.install_filter(_filter(*MACHINES[machine]))


def _filter(column: int, machine: int) -> bytes:
    refuse, allow = _step(RETURN, REFUSE | errno.EPERM), _step(RETURN, ALLOW)
    steps = [
        *(_step(LOAD, MACHINE), _step(IF_EQUAL, machine, if_true=1), refuse),
        *(_step(LOAD, NUMBER), _step(IF_AT_LEAST, X32, if_false=1), refuse),
    ]
    for numbers in REFUSED.values():
        steps += [_step(IF_EQUAL, numbers[column], if_false=1), refuse]
    # Its flags lie in memory, where a filter cannot look; the C library takes ENOSYS for an old kernel and calls clone.
    steps += [_step(IF_EQUAL, CLONE3[column], if_false=1), _step(RETURN, REFUSE | errno.ENOSYS)]
    steps += _refused_by_argument(CLONE[column], IF_ANY_BIT, NEW_NAMESPACES)
    steps += _refused_by_argument(PRCTL[column], IF_EQUAL, kernel.PR_SET_PDEATHSIG)
    steps += [_step(IF_EQUAL, SOCKET[column], if_true=1), allow, _step(LOAD, FIRST_ARGUMENT)]
    for family in FAMILIES:
        steps += [_step(IF_EQUAL, family, if_false=1), allow]
    return b"".join([*steps, refuse])


def _refused_by_argument(number: int, test: int, operand: int) -> list[bytes]:
    """The call `number` is refused when the test holds for its first argument; begins and ends with a number loaded."""
    return [
        *(_step(IF_EQUAL, number, if_false=3), _step(LOAD, FIRST_ARGUMENT), _step(test, operand, if_false=1)),
        *(_step(RETURN, REFUSE | errno.EPERM), _step(LOAD, NUMBER)),
    ]


def _step(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; `if_true` and `if_false` are how many to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, operand)
