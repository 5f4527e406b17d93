"""The real thing: `tppo run` on the quick-start model, every service a process, some of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "iterated_map" / "quickstart.toml"
SMALL = {
    "dashboard.port": "0",
    "run.rollouts_per_step": "8",
    "run.max_response_length": "96",
    "run.window_length": "32",
    "evaluation.num_prompts": "16",
    "evaluation.test_freq": "50",
    "checkpoint.save_freq": "2",
    "redis.lease_seconds": "2",
}
PATIENCE_SECONDS = 240.0

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)


class Run:
    """A `tppo run` in a folder of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder / "runs" / "quickstart"
        options = {**SMALL, "run.directory": str(folder / "runs"), **settings}
        self._command = [sys.executable, "-m", "tppo", "run", str(QUICKSTART)]
        self._command += [f"--set={key}={value}" for key, value in options.items()]
        self.process = self._started()

    def _started(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self._command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def resume(self, **settings: str) -> None:
        """Go on, with other settings where some are named."""
        self.process = self._started("--resume", *(f"--set={key}={value}" for key, value in settings.items()))

    def interrupt(self) -> str:
        """Its output, once Ctrl-C has ended it in order."""
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return output

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=60)
            finally:
                self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def end(self) -> str:
        """Its output, once it has ended by itself."""
        output, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, output + self.logs()
        return output

    def lines(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        whole_lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in map(json.loads, whole_lines) if line["kind"] == kind]

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def wait_for_step(self, step: int) -> None:
        self._wait(lambda: any(line["step"] >= step for line in self.lines("step")), f"step {step}")

    def kill(self, name: str, *, other_than: Collection[int] = ()) -> int:
        """SIGKILL to one of the run's processes, by its command line, once there is one; its id."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = [pid for pid in self._process_ids(name) if pid not in other_than]
            return bool(found)

        self._wait(is_there, name)
        os.kill(found[0], signal.SIGKILL)
        return found[0]

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in self.folder.glob("logs/*.log"))

    def _process_ids(self, name: str) -> list[int]:
        """Processes of this run whose arguments name `name`."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = path.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            is_ours = any(argument.startswith(str(self.folder).encode()) for argument in arguments)
            if is_ours and name.encode() in arguments:
                found.append(int(path.parent.name))
        return found

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, f"the run ended before {what}: {self.logs()}"
            assert time.monotonic() < deadline, f"no {what}: {self.logs()}"
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(**settings: str) -> Run:
        runs.append(Run(tmp_path, **settings))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
def test_a_run_ends_by_itself_and_leaves_its_results(start: Callable[..., Run], mode: str) -> None:
    run = start(**{"run.mode": mode, "run.total_training_steps": "6"})

    run.end()

    assert [line["step"] for line in run.lines("step")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in run.lines("evaluation")] == [0, 6]
    assert max(line["policy_lag/max"] for line in run.lines("step")) <= {"lockstep": 0, "overlapped": 1}.get(mode, 6)
    summary = run.summary()
    assert (summary["steps"], summary["base_accuracy"]) == (6, run.lines("evaluation")[0]["eval/accuracy"])
    assert 0 < summary["slot_occupancy"] <= 1
    assert (run.folder / "learning_curve.png").exists()
    assert (run.folder / "checkpoints" / "global_step_6" / "actor" / "model.safetensors").exists()
    assert run.lines("step")[-1]["ledger/in_flight"] == 0


def test_killed_services_come_back_and_every_step_is_taken_once(start: Callable[..., Run]) -> None:
    run = start(**{"run.total_training_steps": "24"})

    for step, name in ((2, "generation-0"), (5, "learner"), (8, "reward-0"), (12, "learner")):
        run.wait_for_step(step)
        run.kill(name)
    run.end()

    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, 25))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (24 * 8, 24 * 8)
    assert json.loads((run.folder / "identity.json").read_text())["incarnation"] == 3


def test_an_interrupted_run_says_how_to_go_on_and_does(start: Callable[..., Run]) -> None:
    run = start(**{"run.total_training_steps": "40"})
    run.wait_for_step(3)

    output = run.interrupt()
    stopped_at = run.lines("step")[-1]["step"]
    run.resume()
    run.end()

    assert "--resume" in output
    assert stopped_at < 40
    assert [line["step"] for line in run.lines("step")] == list(range(1, 41))
