"""Control groups for programs: the kernel's own limit on the memory and the processes of a whole tree.

Made where this process may make them: below its own group or beside it, wherever memory and processes are controlled.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
PROCESSES = "cgroup.procs"
NAME = re.compile(r"tppo-code-(\d+)(?:-\w+)?")
REMOVAL_SECONDS = 1.0  # the last process of a group is counted a moment longer than it lives
Settings = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Parent:
    """A group in which others can be made, one for each program, and what is written into them."""

    folder: Path
    settings: Settings


def writable_parents(memory_bytes: int, num_processes: int) -> Sequence[Parent]:
    """Where this process can limit programs: in one hierarchy, or in one for each of two controllers; else nowhere."""
    possible = possible_parents(memory_bytes, num_processes, mount=MOUNT, membership=MEMBERSHIP)
    return next(filter(_is_usable, possible), [])


def possible_parents(
    memory_bytes: int, num_processes: int, *, mount: Path, membership: Path
) -> Sequence[Sequence[Parent]]:
    """By what the kernel says of this process's groups, whether or not it may write there."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    groups = {controller: path.strip("/") for _, names, path in lines for controller in names.split(",")}
    found = [find(mount, groups, memory_bytes, num_processes) for find in (_unified, _split)]
    return [parents for parents in found if parents]


@contextmanager
def group_of(parents: Sequence[Parent], owner: str = "program") -> Iterator[Sequence[str]]:
    """Make a group for one program; gives the files into which its process is written. Without parents, none."""
    folders = [parent.folder / f"tppo-code-{os.getpid()}-{owner}" for parent in parents]
    try:
        for folder, parent in zip(folders, parents, strict=True):
            folder.mkdir(exist_ok=True)
            for name, amount in parent.settings.items():
                (folder / name).write_text(str(amount))
        yield [str(folder / PROCESSES) for folder in folders]
    finally:
        for folder in folders:
            _remove(folder)


def sweep(parents: Sequence[Parent]) -> None:
    """Remove the groups of workers that were killed in the middle of a program."""
    for parent in parents:
        for folder in parent.folder.glob("tppo-code-*"):
            named = NAME.fullmatch(folder.name)
            if named and not Path("/proc", named[1]).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _unified(mount: Path, groups: Mapping[str, str], memory_bytes: int, num_processes: int) -> Sequence[Parent]:
    if "" not in groups:
        return []
    settings = {"memory.max": memory_bytes, "memory.swap.max": 0, "memory.oom.group": 1, "pids.max": num_processes}
    own = mount / groups[""]
    for folder in (own, own.parent):
        if folder.is_relative_to(mount) and {"memory", "pids"} <= _controlled_below(folder):
            return [Parent(folder, settings)]
    return []


def _controlled_below(folder: Path) -> set[str]:
    try:
        return set((folder / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def _split(mount: Path, groups: Mapping[str, str], memory_bytes: int, num_processes: int) -> Sequence[Parent]:
    """Version 1, where each controller has a hierarchy of its own."""
    if not {"memory", "pids"} <= groups.keys():
        return []
    memory, pids = mount / "memory" / groups["memory"], mount / "pids" / groups["pids"]
    return [Parent(memory, {"memory.limit_in_bytes": memory_bytes}), Parent(pids, {"pids.max": num_processes})]


def _is_usable(parents: Sequence[Parent]) -> bool:
    """Whether a group can be made, limited and joined here."""
    try:
        sweep(parents)
        with group_of(parents) as joining:
            return all(os.access(path, os.W_OK) for path in joining)
    except OSError:
        return False


def _remove(folder: Path) -> None:
    until = time.monotonic() + REMOVAL_SECONDS
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > until:
                return  # `sweep` finds it
            time.sleep(0.005)
