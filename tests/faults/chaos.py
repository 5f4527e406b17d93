"""Hundreds of runs with faults in them, and what became of the tokens: `make chaos`.

    python -m tests.faults.chaos --runs 200 --seed 1 --folder runs/chaos

Run after run of the quick-start model, each with faults, an end, damages and continuations drawn from its seed
(story.py). When it has come to its last step, the audit reads its traces, and the run is replayed from its log and
compared bit for bit. A line is added to `chaos.jsonl` after every run; another call with the same folder goes on where
this one ended. The folder of a run that failed is kept; `--repeat 1/17` runs that seed once more, in its place.
"""

import argparse
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import pyarrow.compute as pc

from learner.commands.audit.evidence import collect
from tests.faults import kinds, small_files, story
from tests.faults.chaotic_run import ChaoticRun
from tests.faults.kinds import Injection, inject
from tests.faults.report import Report, add, read, table
from tests.faults.story import Continuation, Story
from tests.support.fork_server import ForkServer

SETTINGS = {"checkpoint.keep": "3", "evaluation.test_freq": "4", "evaluation.num_prompts": "4"}
DEADLINE_SECONDS = 150.0
SHOW_TABLE_EVERY = 10  # runs


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left running
    folder = arguments.folder.absolute()
    reports = read(folder)
    seeds = [f"{arguments.seed}/{number}" for number in range(arguments.runs)]
    wanted = arguments.repeat or [one for one in seeds if one not in reports]
    with ForkServer(folder / "fork_server") as server:
        for count, seed in enumerate(wanted, 1):
            source = random.Random(seed)
            plan = story.drawn_story(source, arguments.only or ())
            report = one_run(folder / f"run-{seed.replace('/', '-')}", plan, source, server, seed=seed)
            reports[seed] = report
            add(report, folder)
            print(report.line(), flush=True)
            if count % SHOW_TABLE_EVERY == 0:
                print("\n".join(table(reports.values())), flush=True)
    print("\n".join(table(reports.values())))
    return 0 if all(report.is_good for report in reports.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Inject faults into real runs and audit them.")
    parser.add_argument("--runs", type=int, default=200, help="how many runs the folder is to have in the end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--repeat", metavar="SEED/NUMBER", action="append", help="run this one once more; repeatable")
    known = [*kinds.FAULTS, *small_files.KINDS]
    parser.add_argument("--only", action="append", choices=known, metavar="KIND", help="draw from these; repeatable")
    return parser.parse_args()


def one_run(folder: Path, plan: Story, source: random.Random, server: ForkServer, *, seed: str) -> Report:
    """Its folder is deleted unless something went wrong; `seed` is its name."""
    report = Report(seed)
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _live(folder, plan, source, server, report)
    except Exception as error:  # whatever it is, the runs that follow are to be made
        report.failure = f"{type(error).__name__}: {error}\n" + "".join(traceback.format_exception(error))
    report.seconds = time.monotonic() - began
    if report.is_good:
        shutil.rmtree(folder)
    else:
        (folder / "report.txt").write_text(f"{report.line()}\n\n{plan}\n\n{report.details()}", encoding="utf-8")
    return report


def _live(folder: Path, plan: Story, source: random.Random, server: ForkServer, report: Report) -> None:
    run = ChaoticRun(folder, fork_server=server, **SETTINGS, **plan.settings)
    run.deadline_seconds = DEADLINE_SECONDS
    try:
        for name in plan.faults:
            report.injections.append(Injection(name))
            report.injections[-1] = inject(run, name, source)
        settings: dict[str, str] = {}
        for continuation in plan.continuations:
            settings |= continuation.changes
            _continue(run, continuation, settings, source, report)
        _examine(run, report)
    finally:
        run.close()


def _continue(
    run: ChaoticRun, continuation: Continuation, settings: dict[str, str], source: random.Random, report: Report
) -> None:
    if continuation.ending == story.INTERRUPTED:
        run.interrupt()
    elif continuation.ending != story.FINISHED:
        run.kill_everything()
    if continuation.ending == story.KILLED_AND_FLUSHED:
        run.flush_redis()
    report.injections.append(Injection(continuation.ending))
    report.num_steps = run.newest_step() + continuation.num_more_steps
    for kind in continuation.damages:
        if small_files.damage(run.folder, kind, source) is not None:
            report.injections.append(Injection(kind))
    if continuation.changes:
        report.injections.append(Injection(story.OTHER_SETTINGS))
    run.resume(**settings, **{"run.total_training_steps": str(report.num_steps)})
    run.end()


def _examine(run: ChaoticRun, report: Report) -> None:
    steps = [line["step"] for line in run.lines("step")]
    assert steps == list(range(1, report.num_steps + 1)), steps
    assert run.summary()["steps"] == report.num_steps, run.summary()
    _count_tokens(run.folder, report)
    audit = run.audit()
    report.audit = "kept" if audit.returncode == 0 else audit.stdout + audit.stderr
    replay = run.replay()
    is_same = replay.returncode == 0 and f"replayed {report.num_steps} steps" in replay.stdout
    report.replay = "the same" if is_same else replay.stdout + replay.stderr


def _count_tokens(folder: Path, report: Report) -> None:
    """From the traces: positions that no step took, and positions that two steps took."""
    evidence = collect(folder)
    for mask in ("in_window", "value_mask"):
        taken = evidence.tokens.filter(pc.field(mask)).select(["rollout_id", "position"])
        positions = taken.group_by(["rollout_id", "position"]).aggregate([([], "count_all")])
        lengths = positions.group_by("rollout_id").aggregate([("position", "max"), ("position", "count")])
        report.tokens_trained_twice += len(taken) - len(positions)
        report.tokens_lost += (pc.sum(pc.add(lengths["position_max"], 1)).as_py() or 0) - len(positions)
        report.num_tokens = max(report.num_tokens, len(taken))


if __name__ == "__main__":
    raise SystemExit(main())
