"""What the dashboard costs: the time of each answer, its share of the processor, its memory.

    python -m benchmarks.dashboard.cost [--json]

Makes the folder of a run with 10,000 rollouts in flight and 1,000 steps of history, starts the real `tppo dashboard` on
it, and asks each address one request after the other while the run goes on (a step of 64 rows each second, in 194 lines
of both files) and one reader follows the stream. Goal: every answer below 100 ms at the 95th percentile.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import pyarrow
from pyarrow import parquet

from learner.step.measurements.trace_schema import SCHEMA, Header
from tppo.run_folder.paths import trace_path

NUM_STEPS, NUM_IN_FLIGHT, ROWS_PER_STEP, NUM_METRICS, NUM_SLOTS = 1000, 10_000, 64, 75, 64
TOKENS_PER_WINDOW = 256
NUM_REQUESTS = 40
IDLE_SECONDS = 15.0
ADDRESSES = (
    *("status", "runs", "metrics", "metrics?names=reward/mean,actor/entropy", "metrics/names", "metrics/latest"),
    *("rollouts", "rollouts?state=requested&limit=500", "rollouts?min_score=0.5&sort=-length", "rollouts/{rollout}"),
    *("windows", "windows?limit=2000", "critic", "ledger", "generators", "reward-functions", "checkpoints"),
    *("configuration", "events", "logs/learner?lines=2000"),
)


class SyntheticRun:
    """A run that has taken its steps and goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._random = random.Random(1)
        self._ordinal = 0
        self._began = time.time() - NUM_STEPS
        self.last_trained = ""

    def write(self) -> None:
        """The folder, up to now."""
        (self.path / "logs").mkdir(parents=True)
        (self.path / "logs" / "learner.log").write_text("a line of a log that says something\n" * 20_000)
        config = f'[run]\nname = "{self.path.name}"\ntotal_training_steps = 100000\n[trace]\nenabled = true\n'
        (self.path / "config.toml").write_text(config)
        for step in range(1, NUM_STEPS + 1):
            self.append_step(step)
        with (self.path / "journal.jsonl").open("a") as file:
            for _ in range(NUM_IN_FLIGHT):
                file.write(json.dumps(self._requested(self._new_rollout(), time.time())) + "\n")
        self._write_trace()

    def append_step(self, step: int) -> None:
        """One step in both files."""
        moment = self._began + step
        numbers = {f"metric/{number}": self._random.random() for number in range(NUM_METRICS - 3)}
        line = {
            "kind": "step",
            "step": step,
            "time": moment,
            "seconds_since_start": step,
            "reward/mean": 0.5,
            **numbers,
        }
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({**line, "actor/entropy": 0.5, "ledger/issued": step * ROWS_PER_STEP}) + "\n")
        rollouts = [self._new_rollout() for _ in range(ROWS_PER_STEP)]
        lines = [line for row, rollout in enumerate(rollouts) for line in self._life(rollout, row, step, moment)]
        trained = {"kind": "trained", "step": step, "time": moment, "rows": [[rollout, 0] for rollout in rollouts]}
        with (self.path / "journal.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in [*lines, trained])
        self.last_trained = rollouts[0]

    def _life(self, rollout: str, row: int, step: int, moment: float) -> Iterator[Mapping[str, Any]]:
        """Requested, sampled, scored."""
        yield self._requested(rollout, moment - 1)
        same = {"rollout": rollout, "evaluation": False, "time": moment}
        place = {"generator": f"generation-{row % 2}", "slot": row // 2, "started": moment - 0.9, "ended": moment - 0.1}
        state = {"tokens": TOKENS_PER_WINDOW, "versions": [[step - 1, 200], [step, 56]], "finish": "stop"}
        yield {"kind": "window", "window": 0, **same, **place, **state, "is_finished": True}
        score = {"status": "SCORED", "score": self._random.random(), "components": {"exact": 1.0}, "function": "exact"}
        yield {"kind": "score", "attempt": 0, **same, **score, "seconds": 0.01, "error": ""}

    def _requested(self, rollout: str, moment: float) -> Mapping[str, Any]:
        prompt = int(rollout.split("-")[1])
        same = {"kind": "requested", "rollout": rollout, "window": 0, "prompt": prompt, "ordinal": self._ordinal}
        return {**same, "start": 0, "version": 0, "evaluation": False, "time": moment}

    def _new_rollout(self) -> str:
        self._ordinal += 1
        return f"0-{self._ordinal // 8}-{self._ordinal % 8}"

    def _write_trace(self) -> None:
        """Of the last step: as many rows as it took, by rollout."""
        (self.path / "traces").mkdir()
        first = int(self.last_trained.split("-")[1]) * 8 + int(self.last_trained.split("-")[2])
        rows = [
            {
                **{"rollout_id": f"0-{ordinal // 8}-{ordinal % 8}", "window_index": 0, "position": position},
                **{
                    "token_id": position,
                    "policy_version": 0,
                    "rollout_logprob": -0.5,
                    "old_logprob": -0.5,
                    "ratio": 1.0,
                },
                **{"is_clipped": False, "value": 0.5, "raw_advantage": 0.1, "advantage": 0.1, "return": 1.0},
                **{"in_window": True, "policy_mask": True, "value_mask": True},
            }
            for ordinal in range(first, first + ROWS_PER_STEP)
            for position in range(TOKENS_PER_WINDOW)
        ]
        schema = SCHEMA.with_metadata(Header(NUM_STEPS, "tppo", "streaming", 32).metadata())
        path = trace_path(self.path / "traces", NUM_STEPS)
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, compression="zstd")


@contextmanager
def going_on(run: SyntheticRun) -> Iterator[None]:
    """One step a second, with all that belongs to it."""
    stop = threading.Event()

    def go_on() -> None:
        step = NUM_STEPS
        while not stop.wait(1.0):
            step += 1
            run.append_step(step)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def following(url: str) -> Iterator[list[float]]:
    """One reader of the stream; the moments at which events arrived."""
    moments: list[float] = []
    client = httpx.Client(base_url=url, timeout=10)

    def follow() -> None:
        try:
            with client.stream("GET", "/api/v1/stream") as answer:
                moments.extend(time.monotonic() for line in answer.iter_lines() if line.startswith("id:"))
        except httpx.HTTPError:
            return  # the dashboard has ended

    threading.Thread(target=follow, daemon=True).start()
    yield moments


@contextmanager
def dashboard(folder: Path) -> Iterator[tuple[str, int]]:
    """The real process, once it has read everything: its address and process id."""
    command = [sys.executable, "-m", "tppo", "dashboard", str(folder), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "TPPO_TOKEN"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    try:
        for line in process.stderr:
            if found := re.search(r"dashboard at (http://\S+)", line):
                yield found[1], process.pid
                return
        raise RuntimeError("the dashboard did not start")
    finally:
        process.terminate()
        process.wait(timeout=20)


def milliseconds(ask: Callable[[], httpx.Response]) -> tuple[float, int]:
    """Of one request, and the size of its answer."""
    began = time.perf_counter()
    size = len(ask().raise_for_status().content)
    return (time.perf_counter() - began) * 1000, size


def seconds_of_cpu(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(pid: int, name: str) -> float:
    """VmRSS or VmHWM."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure(run: SyntheticRun) -> dict[str, Any]:
    """Everything, with the dashboard as a process of its own."""
    with dashboard(run.path) as (url, pid), httpx.Client(base_url=f"{url}/api/v1/", timeout=60) as client:
        first, _ = milliseconds(lambda: client.get("status"))
        with going_on(run), following(url) as moments:
            time.sleep(2)
            answers = {address: _times(client, address, run) for address in ADDRESSES}
            busy, began, num_before = seconds_of_cpu(pid), time.monotonic(), len(moments)
            time.sleep(IDLE_SECONDS)
            passed = time.monotonic() - began
            share = (seconds_of_cpu(pid) - busy) / passed
        return {
            "first_answer_ms": first,
            "answers": answers,
            "cpu_share_with_live_updates": share,
            "stream_messages_per_second": (len(moments) - num_before) / passed,
            "rss_mb": megabytes(pid, "VmRSS"),
            "peak_rss_mb": megabytes(pid, "VmHWM"),
            "journal_mb": (run.path / "journal.jsonl").stat().st_size / 2**20,
        }


def _times(client: httpx.Client, address: str, run: SyntheticRun) -> dict[str, float]:
    path = address.format(rollout=f"0-{(NUM_STEPS * ROWS_PER_STEP - ROWS_PER_STEP + 1) // 8}-1")
    found = [milliseconds(lambda: client.get(path)) for _ in range(NUM_REQUESTS)]
    cuts = quantiles([time for time, _ in found], n=20)
    return {"p50_ms": cuts[9], "p95_ms": cuts[18], "kilobytes": found[-1][1] / 1024}


def table(found: Mapping[str, Any]) -> str:
    """For a person."""
    lines = [f"{'address':<42} {'p50':>8} {'p95':>8} {'size':>9}"]
    for address, of in found["answers"].items():
        lines.append(f"{address:<42} {of['p50_ms']:>5.1f} ms {of['p95_ms']:>5.1f} ms {of['kilobytes']:>6.0f} kB")
    lines += [
        f"first answer after the start, with the history read: {found['first_answer_ms']:.0f} ms",
        f"share of one core with a step a second and one reader: {found['cpu_share_with_live_updates']:.1%}",
        f"messages to the reader: {found['stream_messages_per_second']:.1f} a second",
        f"memory: {found['rss_mb']:.0f} MB, {found['peak_rss_mb']:.0f} MB at most",
        f"size of the journal: {found['journal_mb']:.0f} MB",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print numbers instead of a table")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tppo-dashboard-"))
    try:
        run = SyntheticRun(folder / "synthetic")
        run.write()
        found = measure(run)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found, indent=1) if arguments.json else table(found))


if __name__ == "__main__":
    main()
