"""All that docs/performance.md shows, measured one after the other: `make bench`.

    OMP_NUM_THREADS=1 python -m benchmarks --dry-run        # what there is, and how long it takes
    OMP_NUM_THREADS=1 python -m benchmarks                  # measures, writes results.json and the page's tables
    OMP_NUM_THREADS=1 python -m benchmarks roofline growth  # these alone

Each keeps what it has measured in runs/bench as it goes, so the same command goes on after an interruption; remove that
folder to measure again. `--quick` runs all of it small, in runs/bench-quick, to see that it works; nothing is kept.
Compare figures of one run only, and let the machine do nothing else meanwhile.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.generation import engines_beside, roofline
from benchmarks.learner import growth
from benchmarks.results import Chapter, write_page
from benchmarks.studies import attribution, headline, steady
from benchmarks.system import peers, services_cost, stand_ins

CHAPTERS: tuple[Chapter, ...] = (
    attribution.CHAPTER,
    headline.CHAPTER,
    services_cost.CHAPTER,
    roofline.CHAPTER,
    engines_beside.CHAPTER,
    growth.CHAPTER,
    steady.CHAPTER,
    stand_ins.CHAPTER,
    peers.CHAPTER,
)


def chosen(names: Sequence[str]) -> list[Chapter]:
    by_name = {chapter.name: chapter for chapter in CHAPTERS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SystemExit(f"unknown benchmark {unknown[0]!r}; expected some of {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(CHAPTERS)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--dry-run", action="store_true", help="say what there is, and how long it takes")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    arguments = parser.parse_args(argv)
    chapters = chosen(arguments.names)
    for chapter in chapters:
        print(f"{chapter.name:15} {chapter.minutes:4} minutes   {chapter.command}")
    print(
        f"{sum(chapter.minutes for chapter in chapters)} minutes together, less what is done in runs/bench", flush=True
    )
    if arguments.dry_run:
        return 0
    for chapter in chapters:
        print(f"\n== {chapter.name}", flush=True)
        options = ["--quick"] if arguments.quick else []
        code = subprocess.run([sys.executable, "-m", chapter.module, *options]).returncode
        if code:
            print(f"{chapter.command} exited with code {code}; the same command goes on", file=sys.stderr)
            return 1
    if not arguments.quick:
        write_page(CHAPTERS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
