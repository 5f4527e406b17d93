"""`tppo compare CONFIG`: run several systems on one task, one after the other, and write what each took."""

import argparse
import sys
from pathlib import Path

from services.local.arguments import positive
from services.local.compare.plan import PlannedRun, Question, comparison_folder, planned_runs, systems_in
from tppo.config.load import add_overrides_argument

STOPPED_EXIT_CODE = 130


def main(argv: list[str]) -> int:
    """Compare; 0 done, 1 a run failed, 2 wrong configuration, 130 stopped by the user."""
    arguments = _parser().parse_args(argv)
    question = Question(
        config_path=arguments.config,
        systems=systems_in(arguments.algorithms),
        num_seeds=arguments.seeds,
        num_evaluations=arguments.evaluations,
        overrides=tuple(arguments.overrides),
    )
    runs = planned_runs(question)
    if arguments.dry_run:
        print("\n".join(_lines(run) for run in runs))
        return 0
    from services.local.compare.running import RunFailedError, StoppedError, launch_process, run_all

    try:
        run_all(question.config_path, runs, launch=launch_process, say=lambda text: print(text, flush=True))
    except StoppedError:
        print("stopped; the same command continues, with the interrupted run from scratch", file=sys.stderr)
        return STOPPED_EXIT_CODE
    except RunFailedError as failure:
        print(failure, file=sys.stderr)
        return 1
    _write_report(runs, comparison_folder(question), target=arguments.target, task=question.config_path.stem)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tppo compare", description="Run several systems on one task.")
    parser.add_argument("config", type=Path, help="the task's TOML file")
    parser.add_argument(
        "--algorithms",
        default="ppo,tppo",
        metavar="[NAME=]ALGORITHM,...",
        help="values of run.algorithm, each under its own or another name; the last is the one that the others are "
        "compared with",
    )
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each: run.seed and the numbers after it")
    parser.add_argument("--evaluations", type=positive, default=6, help="evaluations of a run besides the base model's")
    parser.add_argument("--target", type=float, help="accuracy to measure the time to; by default one that all reach")
    add_overrides_argument(
        parser, metavar="[NAME:]KEY=VALUE", help="override a key of the file, for all systems or for one"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the runs that there would be, and end")
    return parser


def _lines(run: PlannedRun) -> str:
    settings = "".join(f"\n    {override}" for override in run.overrides)
    return f"{run.paths.folder}{settings}"


def _write_report(runs: list[PlannedRun], folder: Path, *, target: float | None, task: str) -> None:
    from services.local.compare.measures import common_target, measured
    from services.local.compare.report import draw_comparison, write_json, write_table

    measures = [
        measured(
            run.paths.folder,
            system=run.system,
            seed=run.seed,
            rollouts_per_step=run.config.run.rollouts_per_step,
        )
        for run in runs
    ]
    accuracy = common_target(measures) if target is None else target
    write_json(measures, folder / "comparison.json", target=accuracy)
    write_table(measures, folder / "comparison.md", target=accuracy, task=task)
    draw_comparison(measures, folder / "comparison.png", title=task)
    print((folder / "comparison.md").read_text(encoding="utf-8"))
    print(f"written to {folder}: comparison.json, comparison.md, comparison.png")
