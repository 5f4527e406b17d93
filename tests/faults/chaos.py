"""Hundreds of faults on real processes, and what became of the tokens: `make chaos`.

    python -m tests.faults.chaos --faults 210 --seed 1 --folder runs/chaos

Run after run of the quick-start model, each with its share of the faults, drawn from the seed. After the last one the
run is interrupted, resumed and comes to its last step; then the audit reads its traces, and the run is replayed from
its log and compared bit for bit. `chaos.json` is written after every run; another call with the same folder adds to it.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from learner.commands.audit.evidence import collect
from tests.faults.chaotic_run import FAULTS, ChaoticRun, Injection, drawn_faults, inject
from tests.support.processes import TPPO

FAULTS_PER_RUN = 15
MORE_STEPS = 4
REPLAY_SECONDS = 900.0


@dataclass
class Report:
    """One run and its faults."""

    seed: str
    injections: list[Injection] = field(default_factory=list)
    num_steps: int = 0
    num_tokens: int = 0  # trained by the policy or left out by its mask
    tokens_lost: int = 0
    tokens_trained_twice: int = 0
    audit: str = "not reached"
    replay: str = "not reached"

    @property
    def is_good(self) -> bool:
        kept = (self.audit, self.replay) == ("kept", "the same")
        return kept and not self.tokens_lost and not self.tokens_trained_twice


def main() -> int:
    parser = argparse.ArgumentParser(description="Inject faults into real runs and audit them.")
    parser.add_argument("--faults", type=int, default=210)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--only", action="append", choices=FAULTS, help="draw from these faults; may be repeated")
    arguments = parser.parse_args()
    reports = read(arguments.folder)
    num_left = arguments.faults
    while num_left > 0:
        seed = f"{arguments.seed}/{len(reports)}"
        source = random.Random(seed)
        names = drawn_faults(source, min(num_left, FAULTS_PER_RUN), arguments.only or FAULTS)
        num_left -= len(names)
        folder = arguments.folder / f"run-{len(reports)}"
        reports.append(one_run(folder.absolute(), seed, names, source))
        write(reports, arguments.folder)
        if not reports[-1].is_good:
            print(f"run {folder} did not keep its promises: {reports[-1]}", flush=True)
            return 1
        shutil.rmtree(folder)
    print((arguments.folder / "chaos.md").read_text(encoding="utf-8"))
    return 0


def one_run(folder: Path, seed: str, names: Sequence[str], source: random.Random) -> Report:
    report = Report(seed)
    shutil.rmtree(folder, ignore_errors=True)
    run = ChaoticRun(folder, **{"checkpoint.keep": "3"})
    try:
        for name in names:
            report.injections.append(inject(run, name, source))
            print(f"{seed}: {name}, recovered in {report.injections[-1].recovered_seconds:.1f} s", flush=True)
        run.finish(num_more_steps=MORE_STEPS)
    finally:
        run.close()
    count_tokens(run.folder, report)
    audit = run.audit()
    report.audit = "kept" if audit.returncode == 0 else audit.stdout + audit.stderr
    report.replay = replay(run.folder)
    print(f"{seed}: {report.num_steps} steps, {report.num_tokens:,} tokens, audit {report.audit}, {report.replay}")
    return report


def replay(folder: Path) -> str:
    command = [*TPPO, "replay", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=REPLAY_SECONDS)
    return "the same" if done.returncode == 0 else done.stdout + done.stderr


def count_tokens(folder: Path, report: Report) -> None:
    """From the traces: positions that no step took, and positions that two steps took."""
    evidence = collect(folder)
    report.num_steps = len(evidence.metrics)
    for mask in ("in_window", "value_mask"):
        taken = evidence.tokens.filter(pc.field(mask)).select(["rollout_id", "position"])
        positions = taken.group_by(["rollout_id", "position"]).aggregate([([], "count_all")])
        lengths = positions.group_by("rollout_id").aggregate([("position", "max"), ("position", "count")])
        report.tokens_trained_twice += len(taken) - len(positions)
        report.tokens_lost += pc.sum(pc.add(lengths["position_max"], 1)).as_py() - len(positions)
        report.num_tokens = max(report.num_tokens, len(taken))


def read(folder: Path) -> list[Report]:
    path = folder / "chaos.json"
    plain = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Report(**{**one, "injections": [Injection(**each) for each in one["injections"]]}) for one in plain]


def write(reports: Sequence[Report], folder: Path) -> None:
    plain: list[dict[str, Any]] = [asdict(report) for report in reports]
    (folder / "chaos.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    (folder / "chaos.md").write_text("\n".join(table(reports)) + "\n", encoding="utf-8")


def table(reports: Sequence[Report]) -> Iterator[str]:
    yield "| fault | times | recovered in, median | worst | tokens lost | tokens trained twice |"
    yield "|---|---|---|---|---|---|"
    for name in FAULTS:
        struck = [report for report in reports if any(one.name == name for one in report.injections)]
        seconds = [one.recovered_seconds for report in struck for one in report.injections if one.name == name]
        if seconds:
            lost = sum(report.tokens_lost for report in struck)
            twice = sum(report.tokens_trained_twice for report in struck)
            times = f"{len(seconds)} | {statistics.median(seconds):.1f} s | {max(seconds):.1f} s"
            yield f"| {name} | {times} | {lost} | {twice} |"
    everything = [one for report in reports for one in report.injections]
    num_tokens = sum(report.num_tokens for report in reports)
    lost, twice = (sum(getattr(report, name) for report in reports) for name in ("tokens_lost", "tokens_trained_twice"))
    seconds = [one.recovered_seconds for one in everything]
    times = f"{len(everything)} | {statistics.median(seconds):.1f} s | {max(seconds):.1f} s"
    yield f"| **all** | {times} | {lost} of {num_tokens:,} | {twice} |"
    num_same = sum(report.replay == "the same" for report in reports)
    num_steps = sum(report.num_steps for report in reports)
    yield ""
    yield f"{len(reports)} runs, {num_steps:,} training steps; {num_same} of {len(reports)} were replayed bit for bit."


if __name__ == "__main__":
    raise SystemExit(main())
