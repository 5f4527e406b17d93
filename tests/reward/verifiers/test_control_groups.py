"""Where control groups for programs are made, and that they go again."""

import os
from pathlib import Path

import pytest

from services.reward.verifiers.sandbox.cgroup import Parent, group_of, possible_parents, sweep, writable_parents

MEMORY_BYTES, NUM_PROCESSES = 2**20, 32
UNIFIED = {"memory.max": 2**20, "memory.swap.max": 0, "memory.oom.group": 1, "pids.max": 32}
NO_PROCESS = 2**22 + 1  # above the largest process id of Linux


def possible(mount: Path, membership: str) -> list[list[Parent]]:
    (mount / "membership").write_text(membership)
    found = possible_parents(MEMORY_BYTES, NUM_PROCESSES, mount=mount, membership=mount / "membership")
    return [list(parents) for parents in found]


@pytest.mark.parametrize(("controlled_at", "parent"), [("a/b", "a/b"), ("a", "a")])
def test_a_group_is_made_below_or_beside_the_service_where_memory_and_processes_are_controlled(
    tmp_path: Path, controlled_at: str, parent: str
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / controlled_at / "cgroup.subtree_control").write_text("cpu memory pids\n")

    assert possible(tmp_path, "0::/a/b\n") == [[Parent(tmp_path / parent, UNIFIED)]]


def test_no_group_is_made_where_memory_is_not_controlled(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/cgroup.subtree_control").write_text("cpu pids\n")

    assert possible(tmp_path, "0::/a/b\n") == []


def test_version_1_has_a_group_for_each_controller(tmp_path: Path) -> None:
    membership = "9:name=systemd:/\n8:pids:/\n4:cpu,memory:/a\n0::/\n"

    assert possible(tmp_path, membership) == [
        [
            Parent(tmp_path / "memory/a", {"memory.limit_in_bytes": 2**20}),
            Parent(tmp_path / "pids", {"pids.max": 32}),
        ]
    ]


def test_the_groups_of_killed_workers_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    for name in (f"tppo-code-{NO_PROCESS}", f"tppo-code-{os.getpid()}", "another"):
        (tmp_path / name).mkdir()

    sweep([Parent(tmp_path, {})])

    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["another", f"tppo-code-{os.getpid()}"]


def test_a_group_of_the_kernel_has_its_limits_and_is_gone_after_the_program() -> None:
    parents = writable_parents(64 * 2**20, NUM_PROCESSES)
    if not parents:
        pytest.skip("this process may make no control group")

    with group_of(parents) as joining:
        folders = [Path(path).parent for path in joining]
        limits = [
            (folder / name).read_text().strip()
            for folder in folders
            for name in ("pids.max",)
            if (folder / name).exists()
        ]

    assert limits == ["32"]
    assert not any(folder.exists() for folder in folders)
