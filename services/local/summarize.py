"""`tppo summarize RUN`: `summary.json` and `learning_curve.png` of a run whose processes were started one by one.

`tppo run` writes both itself. What the folder does not say is left out: the time before the learner started, and what
generators did after the last line of `metrics.jsonl`.
"""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.local.metrics import RunMetrics
from services.local.results import SummaryFile, added_up, draw_learning_curve, summarize
from services.local.supervision.child import Ending
from tppo.config import ConfigError, add_config_arguments, config_from_arguments
from tppo.process.shell import on_stop_signal
from tppo.run_folder.ending import EndingKind
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.metric_lines import read_metric_lines
from tppo.run_folder.paths import RunPaths, run_path

LOOK_SECONDS = 5.0


def main(argv: Sequence[str]) -> int:
    """Write once; with --follow until the run is finished, or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="tppo summarize", description="Write summary.json and learning_curve.png of a run started by parts."
    )
    add_config_arguments(parser, help_of_config="the run's folder, its name under runs/, or its TOML file")
    parser.add_argument("--follow", action="store_true", help="now and then, until every step is done and evaluated")
    arguments = parser.parse_args(argv)
    is_file = arguments.config.is_file()
    paths = RunPaths(config_from_arguments(arguments).run.path if is_file else run_path(str(arguments.config)))
    if arguments.follow:
        asyncio.run(_follow(paths))
        return 0
    if not paths.metrics.exists():
        raise ConfigError(f"{paths.folder} holds no {paths.metrics.name}; expected the folder of a run")
    write(paths)
    return 0


async def _follow(paths: RunPaths) -> None:
    stopping, written = asyncio.Event(), (0, 0)
    on_stop_signal(stopping.set)
    while not stopping.is_set():
        sizes = _size(paths.metrics), _size(paths.journal)
        if sizes != written and sizes[0]:
            if await asyncio.to_thread(write, paths) is EndingKind.FINISHED:
                return
            written = sizes
        try:
            await asyncio.wait_for(stopping.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue


def write(paths: RunPaths) -> EndingKind | None:
    """Both files, of the run as far as it has come; how it ended, if it did."""
    lines = read_metric_lines(paths.metrics)
    metrics, ending = RunMetrics(lines), _ending(paths)
    seconds, totals = added_up(lines)
    if metrics.steps or metrics.evaluations:
        draw_learning_curve(metrics, paths.learning_curve, title=paths.folder.resolve().name)
    # The summary last: readers take a folder that was written to since for a run that goes on.
    SummaryFile(paths.summary).write(summarize(metrics, totals, seconds_total=seconds, ending=ending))
    return None if ending is None else ending.kind


def _ending(paths: RunPaths) -> Ending | None:
    """By the journal's last word of the learner; None while it may go on."""
    last: Mapping[str, Any] = {}
    for line in read_objects(paths.journal):
        if line.get("event") in ("start", "end"):
            last = line
    is_finished = last.get("event") == "end" and (last.get("is_complete") is True or paths.is_stopped())
    return Ending(EndingKind.FINISHED) if is_finished else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
