"""CPU time and memory of a tree of processes, by kind."""

import os
import subprocess
import sys

import pytest

from benchmarks.process_watch import ProcessWatch, Sample, cpu_between, kind_of, largest_memory


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["python", "-P", "-m", "tppo", "learner", "run.toml", "--name", "learner"], "learner"),
        (["/x/bin/python", "-P", "-m", "tppo", "generation", "run.toml"], "generation"),
        (["python", "-m", "tppo", "run", "run.toml"], "supervisor"),
        (["/x/valkey-server", "--port", "1"], "redis"),
        (["/x/valkey-server 127.0.0.1:6379"], "redis"),
        (["python", "-c", "work"], "reward"),
        ([], "reward"),
    ],
)
def test_a_process_is_of_its_verb_or_of_what_started_it(command: list[str], kind: str) -> None:
    assert kind_of(command, of_parent="reward") == kind


def test_cpu_time_lies_on_straight_lines_between_samples() -> None:
    samples = [
        Sample(10.0, {"learner": 1.0}, {"learner": 50.0}),
        Sample(12.0, {"learner": 2.0, "redis": 0.5}, {"learner": 80.0, "redis": 5.0}),
        Sample(14.0, {"learner": 4.0, "redis": 0.5}, {"learner": 60.0, "redis": 6.0}),
    ]

    assert cpu_between(samples, 11.0, 13.0) == {"learner": 1.5, "redis": 0.25}
    assert cpu_between(samples, 0.0, 99.0) == {"learner": 3.0, "redis": 0.5}
    assert largest_memory(samples, 11.0, 15.0) == {"learner": 80.0, "redis": 6.0}


def test_the_time_of_a_process_that_has_ended_still_counts() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        watch = ProcessWatch(child.pid)  # not started: its samples are those of this test
        assert child.stdout is not None
        child.stdout.readline()
        watch.look()
        child.communicate("\n")
    watch.look()

    (found,) = watch.cpu_seconds(0.0, 2e9).values()

    assert found == 0.0  # the first sample had it all
    assert watch._samples[-1].cpu_seconds["supervisor"] >= 0.29
    assert watch.memory_mb(0.0, 2e9)["supervisor"] > 1.0


def test_a_process_that_nobody_has_waited_for_counts_once() -> None:
    work = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", work, "-m", "tppo", "learner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        watch = ProcessWatch(child.pid)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        watch.look()
        child.stdin.close()
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table of processes
        watch.look()

    assert set(watch._samples[-1].cpu_seconds) == {"learner"}
