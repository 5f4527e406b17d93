"""A long run of the quick start: whether time per step and memory stay what they were.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.steady

Responses grow while the policy learns, so training is given for each token of the windows, as a median over a hundred
steps. What a step takes beside waiting and training is the control plane's: ledger, requests, metrics, checkpoints.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks import results
from benchmarks.process_watch import ProcessWatch
from benchmarks.results import Chapter, Lines, Section, chapter_folder, chapter_parser, table
from benchmarks.studies.timed_runs import rounded, watched_run
from tppo.run_folder.metric_lines import STEP, read_metric_lines

SPAN = 100  # steps
FIRST = 10


def measured(steps: int, folder: Path) -> Section:
    settings = (f"run.total_training_steps={steps}", "run.seed=101", "evaluation.test_freq=0", "dashboard.port=0")
    own = ("run.name=steady", f'run.directory="{folder}"')
    watch = watched_run((*settings, *own))
    lines = [line for line in read_metric_lines(folder / "steady" / "metrics.jsonl") if line["kind"] == STEP]
    return {"steps": steps, "spans": [span(lines, first, watch) for first in firsts(steps)]}


def firsts(steps: int) -> list[int]:
    """Where the spans begin: early, up to step 1,000, and at the end."""
    length = min(SPAN, steps // 4)
    middle = [1000 - length] if steps > 1000 else []
    return [min(FIRST, steps // 4), *middle, steps - length]


def span(lines: Sequence[Mapping[str, float]], first: int, watch: ProcessWatch) -> Section:
    taken = lines[first : first + min(SPAN, len(lines) // 4)]
    beside = [after["time"] - before["time"] - after["timing_s/step"] for before, after in pairwise(taken)]
    return {
        "first": int(taken[0]["step"]),
        "last": int(taken[-1]["step"]),
        "training_us_of_token": 1e6 * median(line["timing_s/train"] / line["tokens/window"] for line in taken),
        "tokens": median(line["tokens/window"] for line in taken),
        "beside_ms": 1e3 * median(beside),
        "memory_mb": rounded(watch.memory_mb(taken[0]["time"], taken[-1]["time"])),
    }


def tables(section: Section) -> dict[str, str]:
    spans = section["spans"]
    kinds = sorted(set.intersection(*(set(span["memory_mb"]) for span in spans)))

    def row(title: str, numbers: Sequence[float], form: str) -> list[str]:
        return [title, *(f"{form.format(number)} ({number / numbers[0]:.2f})" for number in numbers)]

    rows = [
        row("window tokens of a step", [span["tokens"] for span in spans], "{:,.0f}"),
        row("training, microseconds a token", [span["training_us_of_token"] for span in spans], "{:.1f}"),
        row("beside waiting and training, ms", [span["beside_ms"] for span in spans], "{:.1f}"),
        *(row(f"memory of {kind}, MB", [span["memory_mb"][kind] for span in spans], "{:.0f}") for kind in kinds),
    ]
    names = [f"steps {span['first']} to {span['last']}" for span in spans]
    head = [f"in brackets: to {names[0]}", *names]
    return {"steady": table(head, rows)}


CHAPTER = Chapter(name="steady", module="benchmarks.studies.steady", minutes=15, places=("steady",), tables=tables)


def main(argv: Sequence[str]) -> None:
    parser = chapter_parser(__doc__, quick="a few steps")
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args(argv)
    steps, folder = 24 if arguments.quick else arguments.steps, chapter_folder(arguments)
    parts = {f"{steps} steps": lambda: measured(steps, folder)}
    (section,) = Lines(folder / "steady.jsonl").measure(parts, seconds_each=0.6 * steps).values()
    print(tables(section)["steady"])
    if not arguments.quick:
        results.keep(CHAPTER.name, section, seconds=section["seconds_of_machine"])


if __name__ == "__main__":
    main(sys.argv[1:])
