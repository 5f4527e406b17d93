"""Poison is rejected, damage damages, and forked processes end as their stand-ins do."""

import os
import random
import signal
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.rollouts.border import Border, RejectedError, RolloutIds
from learner.rollouts.prompts import PromptOrder
from tests.faults import poison, small_files
from tests.faults.chaotic_run import SEVERAL_RANKS, VALUE_MODEL_APART
from tests.faults.kinds import FAULTS, Injection
from tests.faults.report import Report, add, read, table
from tests.faults.story import SLOW, drawn_story
from tests.support.fork_server import ForkServer
from tests.support.processes import TPPO, end_now, is_running
from tests.support.waiting import wait_until
from tppo.rollout import WindowRequest, tokens
from tppo.security.envelope import Writer
from tppo.security.record_keys import sealed_records

REQUEST = WindowRequest("0-3-1", 2, tokens([1]), tokens(), 32, (), 1.0, 0)
KEYS = sealed_records(["a-secret-of-the-run"])
BORDER = Border(RolloutIds(PromptOrder(8, 4, seed=0, shuffle=False), num_evaluation_prompts=4), 50, 96, records=KEYS)
ADMITTED = {"commands that make no sense", "a policy version to come"}  # decided where they are applied, or trained


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork_server")) as started:
        yield started


@pytest.mark.parametrize("kind", [name for name, kind in poison.KINDS.items() if kind.stream == "inbox"])
def test_the_border_rejects_poison(kind: str) -> None:
    payloads = [one for seed in range(20) for one in poison.KINDS[kind].records(REQUEST, random.Random(seed), KEYS)]

    rejected = []
    for payload in payloads:
        try:
            BORDER.admit(payload)
        except RejectedError:
            rejected.append(payload)

    assert rejected == ([] if kind in ADMITTED else payloads)


def test_an_answer_without_poison_is_admitted() -> None:
    record = BORDER.admit(KEYS.sealer(Writer.GENERATION).seal(poison.a_window(REQUEST)))

    assert record.key == ("0-3-1", 2)  # type: ignore[union-attr]


def test_a_story_is_drawn_from_its_seed_and_all_kinds_come() -> None:
    stories = [drawn_story(random.Random(f"1/{number}")) for number in range(200)]

    faults = Counter(name for story in stories for name in story.faults)
    damages = Counter(kind for story in stories for one in story.continuations for kind in one.damages)
    assert stories == [drawn_story(random.Random(f"1/{number}")) for number in range(200)]
    assert set(faults) == set(FAULTS) - SLOW
    assert set(damages) == set(small_files.KINDS)
    assert all(story.continuations for story in stories)
    assert {frozenset(story.settings.items()) for story in stories} == {
        frozenset(one.items()) for one in ({}, SEVERAL_RANKS, VALUE_MODEL_APART)
    }


@pytest.mark.parametrize("how", small_files.HOW)
def test_damage_changes_a_small_file(tmp_path: Path, how: str) -> None:
    (tmp_path / "summary.json").write_bytes(b'{"steps": 3}')

    damaged = small_files.damage(tmp_path, f"summary.json: {how}", random.Random(1))

    assert damaged == tmp_path / "summary.json"
    assert damaged.read_bytes() != b'{"steps": 3}'


def test_foreign_lines_leave_the_others_whole(tmp_path: Path) -> None:
    lines = [b'{"kind": "step", "step": 1}', b'{"kind": "step", "step": 2}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")

    small_files.damage(tmp_path, "metrics.jsonl: foreign lines", random.Random(1))

    found = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    assert [line for line in found if line in lines] == lines
    assert len(found) == 6


def test_a_repeated_run_replaces_its_report(tmp_path: Path) -> None:
    bad = Report("1/0", [Injection("Redis is flushed", 2.0)], tokens_lost=3, audit="kept", replay="the same")
    good = Report("1/0", [Injection("Redis is flushed", 2.0)], audit="kept", replay="the same")

    add(bad, tmp_path)
    add(good, tmp_path)

    assert read(tmp_path) == {"1/0": good}
    assert "| Redis is flushed | 1 | 1 | 2.0 s | 2.0 s | 0 | 0 | 1 of 1 |" in list(table([good]))


def test_a_forked_process_is_tppo(server: ForkServer) -> None:
    forked = subprocess.run([server.python, *TPPO[1:], "no-verb"], capture_output=True, text=True, check=False)
    own = subprocess.run([*TPPO, "no-verb"], capture_output=True, text=True, check=False)

    assert (forked.returncode, forked.stdout, forked.stderr) == (own.returncode, own.stdout, own.stderr)


def test_a_forked_process_has_the_descriptors_that_it_was_given(server: ForkServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [str(server.python), *TPPO[1:], "dashboard", str(tmp_path), "--fd", str(listener.fileno())]
        dashboard = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL, text=True)
        port = listener.getsockname()[1]
    try:
        assert wait_until(lambda: _is_healthy(port), "an answer at the listener's port")
        assert dashboard.poll() is None
    finally:
        end_now(dashboard)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_other_arguments_are_the_interpreter_s(server: ForkServer) -> None:
    done = subprocess.run([server.python, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)

    assert done.stdout == "42\n"


def test_a_forked_process_ends_with_its_stand_in(server: ForkServer, tmp_path: Path) -> None:
    stand_in = subprocess.Popen([server.python, *TPPO[1:], "dashboard", str(tmp_path)], stdout=subprocess.DEVNULL)
    forked = wait_until(lambda: server.real_process_id(stand_in.pid) or 0, "the forked process")

    stand_in.kill()
    stand_in.wait()

    assert wait_until(lambda: not is_running(forked), "the end of the forked process")
    assert stand_in.returncode == -signal.SIGKILL


def test_a_stand_in_ends_as_its_process_does(server: ForkServer, tmp_path: Path) -> None:
    stand_in = subprocess.Popen([server.python, *TPPO[1:], "dashboard", str(tmp_path)], stdout=subprocess.DEVNULL)
    forked = wait_until(lambda: server.real_process_id(stand_in.pid) or 0, "the forked process")

    os.kill(forked, signal.SIGKILL)

    assert stand_in.wait(timeout=60) == -signal.SIGKILL
