"""Of a machine that lacks something it says what, and what to do; the rest is checked all the same."""

import asyncio
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from services.local.doctor import machine, of_process, of_run, surroundings
from services.local.doctor.diagnosis import Diagnosis, Severity, diagnoses_of, ok
from tests.support.processes import QUICKSTART, REPOSITORY
from tests.support.redis_server import StartRedis
from tppo.__main__ import main
from tppo.config import load
from tppo.models import device
from tppo.streams.connection import RedisClient


def by_check(diagnoses: Iterator[Diagnosis]) -> dict[str, Diagnosis]:
    return {one.check: one for one in diagnoses}


async def set_policy(url: str, policy: str) -> None:
    async with RedisClient.from_url(url) as client:
        await client.config_set("maxmemory-policy", policy)


def test_a_whole_machine_has_nothing_in_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = main(["doctor", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert [one for one in found if one["state"] == "problem"] == []
    assert exit_code == 0
    checks = {one["check"] for one in found}
    assert checks >= {"Python", "packages", "devices", "shared memory", "disk", "disk speed", "Redis", "ports"}


def test_a_broken_check_is_a_problem_and_stops_no_other() -> None:
    def broken() -> Iterator[Diagnosis]:
        yield ok("first", "here")
        raise OSError("no such device")

    found = list(diagnoses_of([("disk", broken), ("ports", lambda: [ok("ports", "free")])]))

    assert [(one.check, one.state) for one in found] == [("first", "ok"), ("disk", "problem"), ("ports", "ok")]
    assert found[1].found == "the check failed: OSError: no such device"


def test_without_shared_memory_the_container_s_option_is_named(tmp_path: Path) -> None:
    found = by_check(machine.shared_memory(tmp_path / "shm"))["shared memory"]

    assert found.state is Severity.PROBLEM
    assert found.found == f"no {tmp_path}/shm to write to"
    assert "--shm-size" in found.what_to_do


def test_a_container_s_64_mib_of_shared_memory_are_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**26))

    found = by_check(machine.shared_memory(tmp_path))["shared memory"]

    assert (found.state, found.found) == (Severity.WARNING, f"64 MiB free in {tmp_path}")


def test_a_full_disk_is_named_with_what_the_run_needs(tmp_path: Path) -> None:
    found = by_check(machine.disk(tmp_path / "runs", needed=2**60))["disk"]

    assert found.state is Severity.PROBLEM
    assert "1073741824.0 GiB are needed" in found.found


def test_a_place_that_is_no_folder_takes_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")

    found = by_check(machine.disk(tmp_path / "runs"))["disk"]

    assert (found.state, found.what_to_do) == (Severity.PROBLEM, "set run.directory to a folder that may be")


def test_the_disk_s_speed_is_measured_where_the_runs_are_kept_and_nothing_stays(tmp_path: Path) -> None:
    found = by_check(machine.disk(tmp_path / "runs"))

    assert found["disk speed"].found.endswith("/s")
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_cuda_beside_a_driver_is_the_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")

    (found,) = machine.devices()

    assert found.state is Severity.WARNING
    assert "built without CUDA" in found.found


def test_a_build_for_a_newer_driver_finds_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")

    (found,) = machine.devices()

    assert found.state is Severity.PROBLEM
    assert "CUDA 13.0 finds no device" in found.found


@pytest.mark.parametrize(("limit", "state"), [(256, "problem"), (1024, "warning"), (65536, "ok")])
def test_few_open_files_are_refused_before_a_service_is(
    limit: int, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_NOFILE: (limit, limit)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits.get(kind, (-1, -1)))

    assert by_check(machine.limits())["open files"].state == state


def test_two_cores_and_no_bound_on_threads_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})

    assert [one.state for one in machine.threads({})] == [Severity.WARNING]
    assert [one.state for one in machine.threads({"OMP_NUM_THREADS": "1"})] == [Severity.OK]


def test_a_server_that_answers_is_described_with_its_clock(redis_url: str) -> None:
    found = by_check(surroundings.redis(redis_url))

    assert found["Redis"].state is Severity.OK
    assert found["clocks"].state is Severity.OK


def test_a_server_that_forgets_entries_is_a_problem(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        asyncio.run(set_policy(server.url, "allkeys-lru"))
        found = by_check(surroundings.redis(server.url))

    assert found["Redis' memory"].state is Severity.PROBLEM
    assert "noeviction" in found["Redis' memory"].what_to_do


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = by_check(surroundings.redis(f"redis://:secret@127.0.0.1:{port}/0"))

    assert found["Redis"].state is Severity.PROBLEM
    assert "secret" not in found["Redis"].found


def test_an_environment_without_vllm_is_a_problem_for_a_run_that_names_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)

    assert [one.state for one in surroundings.vllm(python, is_needed=True)] == [Severity.PROBLEM]
    assert [one.state for one in surroundings.vllm(python, is_needed=False)] == [Severity.OK]
    assert [one.state for one in surroundings.vllm(tmp_path / "nowhere", is_needed=False)] == [Severity.PROBLEM]


def test_programs_that_cannot_be_isolated_are_a_problem_for_a_run_that_scores_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = subprocess.CompletedProcess([], 1, stdout="", stderr="namespaces: not permitted\n")
    monkeypatch.setattr(surroundings, "_ran", lambda command: ran)

    (needed,) = surroundings.isolation(is_needed=True)
    (not_needed,) = surroundings.isolation(is_needed=False)

    assert (needed.state, not_needed.state) == (Severity.PROBLEM, Severity.WARNING)
    assert needed.found == "`code` cannot be scored: namespaces: not permitted"


def test_all_that_is_wrong_with_a_run_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = load(
            QUICKSTART,
            [
                f"dashboard.port={port}",
                f'data.train_files=["{tmp_path}/rows.jsonl"]',
                f'model.path="{tmp_path}/model"',
                "generation.device=cuda:7",
                f'run.directory="{tmp_path}"',
            ],
        )
        found = by_check(diagnoses_of(of_run.checks_of_run(config)))

    wrong = {check for check, one in found.items() if one.state is Severity.PROBLEM}
    assert wrong == {"ports", "data.train_files", "model", "device of generators", "rows and rewards"}
    assert found["ports"].found.startswith(f"dashboard.port = {port}: cannot listen")
    assert found["ports"].what_to_do == "expected a free port"


@pytest.mark.process
def test_the_quick_start_can_run_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = main(["doctor", "--run", str(QUICKSTART), "--set", f'run.directory="{tmp_path}"', "--json"])

    found = json.loads(capsys.readouterr().out)
    assert [one for one in found if one["state"] == "problem"] == []
    assert exit_code == 0
    assert [one["state"] for one in found if one["check"] == "rows and rewards"] == ["ok"]


def test_a_configuration_that_does_not_load_is_one_of_the_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[run]\nname = 3\n")

    assert main(["doctor", "--run", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "configuration" in shown
    assert "run.name" in shown


def test_a_placement_on_gpus_that_are_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "accelerators", lambda: ["cuda:0", "cuda:1"])
    there = load(QUICKSTART, ["placement.policy=0", "placement.generation=1"])
    beyond = load(QUICKSTART, ["placement.policy=0", "placement.generation=2"])

    (good,) = dict(of_run.checks_of_run(there))["placement"]()
    (bad,) = dict(of_run.checks_of_run(beyond))["placement"]()
    (none,) = dict(of_run.checks_of_run(load(QUICKSTART)))["placement"]()

    assert (good.state, good.found) == (Severity.OK, "GPUs: policy 0, value model 0, generators 1")
    assert (bad.state, bad.what_to_do.partition(",")[0]) == (Severity.PROBLEM, "expected numbers below 2")
    assert none.state is Severity.OK


def test_gpus_that_a_batch_system_does_not_show_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")

    (found,) = dict(of_run.checks_of_run(load(QUICKSTART, ["placement.policy=1"])))["placement"]()

    assert found.state is Severity.PROBLEM
    assert "CUDA_VISIBLE_DEVICES = '6' shows 1" in found.found


def test_a_broken_machine_has_each_fault_in_the_table_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(machine, "shared_memory", partial(machine.shared_memory, tmp_path / "shm"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    monkeypatch.setattr(machine, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(of_run, "DASHBOARD_PORTS", [taken.getsockname()[1]])
        exit_code = main(["doctor"])

    shown = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert exit_code == 1
    for remedy in (
        "mount it: --shm-size=8g",  # no shared memory
        "set dashboard.port",  # port taken
        "compare the driver's CUDA version",  # wrong torch
        "make room, or set run.directory",  # full disk
    ):
        assert remedy in shown
    assert "4 problem(s)" in shown


PROCESS = [str(QUICKSTART), "--set=run.directory=/runs", "--resume", "--name", "l"]


def test_before_a_process_starts_its_log_has_a_line_for_each_thing_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "shared_memory", partial(machine.shared_memory, tmp_path / "shm"))
    own = [f"--set=run.directory={tmp_path}", f"--set=model.path={tmp_path}/none", "--set=learner.num_processes=2"]

    codes = {role: main(["doctor", "--before", role, *PROCESS, *own]) for role in ("learner", "reward", "dashboard")}

    lines = capsys.readouterr().err.splitlines()
    assert (codes["learner"], codes["dashboard"]) == (1, 0)
    (memory,) = [line for line in lines if "shared memory" in line]
    assert memory.startswith(f"tppo doctor: problem: shared memory: no {tmp_path}/shm to write to; mount it: ")
    assert len([line for line in lines if f"problem: model: model.path = {tmp_path}/none" in line]) == 1


def test_a_process_that_shares_no_memory_with_others_needs_none() -> None:
    def checks(role: str, *overrides: str) -> set[str]:
        return {name for name, _ in of_process.checks_of_process(role, load(QUICKSTART, overrides))}

    assert "shared memory" not in checks("learner") | checks("generation") | checks("reward")
    assert "shared memory" in checks("learner", "learner.num_processes=2") & checks(
        "generation", "generation.engine=vllm"
    )


def test_programs_are_tried_before_a_reward_service_starts_that_scores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = subprocess.CompletedProcess([], 1, stdout="", stderr="namespaces: not permitted\n")
    monkeypatch.setattr(surroundings, "_ran", lambda command: ran)
    scores_code = load(QUICKSTART, ["reward.functions.x=code"])

    found = by_check(diagnoses_of(of_process.checks_of_process("reward", scores_code)))
    others = by_check(diagnoses_of(of_process.checks_of_process("reward", load(QUICKSTART))))

    assert found["isolation"].state is Severity.PROBLEM
    assert "isolation" not in others


def test_a_verb_that_is_no_process_of_a_run_is_bad_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--before", "audit"]) == 2

    assert "--before audit: expected one of generation, reward, learner, dashboard" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["reward", "dashboard"])
def test_an_image_without_torch_and_rich_can_check_itself(role: str, tmp_path: Path) -> None:
    missing = ("torch", "transformers", "rich", "matplotlib", "safetensors", "numpy")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); from tppo.__main__ import main; "
        f"sys.exit(main(['doctor', '--before', {role!r}, {str(QUICKSTART)!r}, '--set=run.directory={tmp_path}']))"
    )

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert all(line.startswith("tppo doctor: ") for line in ran.stderr.splitlines())


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (
            ["learner", "run.toml", "--resume"],
            ["doctor --before learner run.toml --resume", "learner run.toml --resume"],
        ),
        (["summarize", "--follow", "run.toml"], ["summarize --follow run.toml"]),
    ],
)
def test_an_image_checks_itself_and_starts_its_service_whatever_is_found(
    words: list[str], called: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "tppo"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/called\n[ "$1" != doctor ]\n')
    program.chmod(0o755)

    ran = subprocess.run(
        ["sh", str(REPOSITORY / "deploy" / "entrypoint.sh"), *words],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )

    assert ran.returncode == 0
    assert (tmp_path / "called").read_text().splitlines() == called
