"""The seccomp profile of the reward container: what Docker's refuses, but for the calls that build a sandbox."""

import json
from pathlib import Path
from typing import Any

import yaml

from services.reward.verifiers.sandbox.inside import kernel, namespaces

ROOT = Path(__file__).parents[2]
PROFILE = json.loads((ROOT / "deploy/seccomp/reward.json").read_text())
RULES: list[dict[str, Any]] = PROFILE["syscalls"]


def rules_of(call: str) -> list[dict[str, Any]]:
    return [rule for rule in RULES if call in rule["names"]]


def test_unshare_is_allowed_with_all_namespaces_of_a_sandbox_and_in_no_other_combination() -> None:
    (rule,) = rules_of("unshare")

    wanted = namespaces.NAMESPACES | kernel.CLONE_NEWUSER
    assert rule["action"] == "SCMP_ACT_ERRNO"
    assert rule["args"] == [{"index": 0, "value": wanted, "op": "SCMP_CMP_NE"}]


def test_the_calls_that_build_the_root_of_a_sandbox_are_allowed() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ALLOW"
    assert [rules_of(call) for call in ("mount", "umount2", "mount_setattr", "pivot_root")] == [[]] * 4


def test_each_new_namespace_is_refused_to_clone_and_no_flags_of_clone3_are_taken() -> None:
    flags = {rule["args"][0]["value"] for rule in rules_of("clone")}

    #              mount    cgroup     uts        ipc        user        pid         net
    assert flags == {0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000}
    assert all(rule["args"][0]["valueTwo"] == rule["args"][0]["value"] for rule in rules_of("clone"))
    assert [rule["errnoRet"] for rule in rules_of("clone3")] == [38]  # ENOSYS


def test_what_leads_into_the_kernel_or_other_processes_stays_refused() -> None:
    for call in (
        "bpf",
        "ptrace",
        "process_vm_writev",
        "setns",
        "keyctl",
        "init_module",
        "kexec_load",
        "open_by_handle_at",
    ):
        (rule,) = rules_of(call)
        assert (rule["action"], rule.get("args")) == ("SCMP_ACT_ERRNO", None), call


def test_the_reward_container_alone_has_the_profile() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiled = {
        name: option.partition("=")[2]
        for name, service in services.items()
        for option in service.get("security_opt", [])
        if option.startswith("seccomp")
    }

    assert profiled == {"reward": "deploy/seccomp/reward.json"}
    assert "no-new-privileges:true" in services["reward"]["security_opt"]
    assert services["reward"]["cap_drop"] == ["ALL"]
