"""Run a command that dies with its parent: `python tether.py PARENT_PID COMMAND ...`.

The kernel keeps the promise (Linux, `PR_SET_PDEATHSIG`), so it holds even when the parent is killed outright: at the
end of the thread that has started the command. The command replaces this process and keeps its id. A separate program,
as a `preexec_fn` may deadlock in a parent that has threads. The signal is SIGKILL because nothing then is left behind
for certain: a run survives it by design.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


def tethered(command: Sequence[str]) -> list[str]:
    """The command as a child of this process that dies with it; the program in between costs 15 ms."""
    # -I -S: no site packages, no user's start-up files.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def tether(parent_pid: int) -> None:
    """Request SIGKILL at the parent's death; exit at once if it is dead already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(1)


if __name__ == "__main__":
    tether(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
