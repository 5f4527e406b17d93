"""What was measured, `benchmarks/results.json`, and the tables of docs/performance.md that are made of it.

    python -m benchmarks.results

writes the tables again. Each benchmark of `make bench` owns a section of the file, with its numbers and the machine
that they come from, and a function that makes markdown of it. A table whose section is missing names the command
instead of figures that nobody has measured.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_lines import read_objects

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
FOLDER = Path("runs/bench")
"""What was measured so far, of all chapters."""
QUICK_FOLDER = Path("runs/bench-quick")
PLACE = re.compile(r"(<!-- measured: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Section = dict[str, Any]
Tables = Callable[[Section], Mapping[str, str]]
"""Markdown by the name of its place in the page."""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One benchmark, as the page has it."""

    name: str
    """Of its section."""
    module: str
    minutes: int
    """That it takes on two quiet cores."""
    places: tuple[str, ...]
    """Of its tables."""
    tables: Tables

    @property
    def command(self) -> str:
        """What measures it."""
        return f"python -m {self.module}"


def chapter_parser(description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """What the chapters that go on after an interruption have in common; `quick`: what is small then."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--folder", type=Path, default=FOLDER, help="of what is done already")
    made.add_argument("--quick", action="store_true", help=f"{quick}: to see that it works")
    return made


def chapter_folder(arguments: argparse.Namespace) -> Path:
    """Where a chapter keeps what it has measured."""
    return QUICK_FOLDER if arguments.quick else Path(arguments.folder)


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that names a host."""
    import torch  # a second

    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpu.read_text()) if cpu.exists() else [platform.processor()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": names[0] if names else platform.machine(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }


def described(section: Section) -> str:
    """The machine and the day, in a sentence."""
    of = section["machine"]
    hardware = f"{of['num_cores']} cores ({of['processor']}, {of['memory_gb']} GB)"
    software = f"Python {of['python']}, torch {of['torch']}"
    seconds = section["seconds"]
    took = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    return f"{hardware}, {software}; measured on {section['measured_on']} in {took}."


def keep(name: str, section: Section, *, seconds: float, path: Path = RESULTS) -> None:
    """Put a section into the file, in place of an older one; `seconds`: what measuring took."""
    sections = read(path)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    about = {
        "machine": machine(),
        "measured_on": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "seconds": round(seconds),
    }
    sections[name] = about | section
    lines = (f"{json.dumps(key)}: {json.dumps(one, allow_nan=False)}" for key, one in sorted(sections.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read(path: Path = RESULTS) -> dict[str, Section]:
    """All sections; none where there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def page_with(page: str, sections: Mapping[str, Section], chapters: Sequence[Chapter]) -> str:
    """The page with its tables made again. Raises `ValueError` for a place that no chapter fills."""
    texts: dict[str, str] = {}
    for chapter in chapters:
        if chapter.name in sections:
            section = sections[chapter.name]
            tables = chapter.tables(section)
            texts |= {place: f"{tables[place].strip()}\n\n{described(section)}\n" for place in chapter.places}
        else:
            texts |= dict.fromkeys(chapter.places, f"Not measured on this version yet: `{chapter.command}`.\n")
    unknown = {found["name"] for found in PLACE.finditer(page)} - texts.keys()
    if unknown:
        raise ValueError(f"{PAGE.name}: no benchmark for {', '.join(sorted(unknown))}; expected {', '.join(texts)}")
    return PLACE.sub(lambda found: f"{found[1]}{texts[found['name']]}{found[3]}", page)


def write_page(chapters: Sequence[Chapter], *, results: Path = RESULTS, page: Path = PAGE) -> None:
    """The tables of docs/performance.md."""
    text = page_with(page.read_text(encoding="utf-8"), read(results), chapters)
    write_atomically(page, text.encode())


class Lines:
    """What a benchmark has measured so far, a line for each part, so that a call that is interrupted goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Section]:
        """By key; of two with one key the newer counts."""
        lines = read_objects(self._path) if self._path.exists() else []
        return {line["key"]: line["numbers"] for line in lines}

    def add(self, key: str, numbers: Section) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "numbers": numbers}, allow_nan=False) + "\n")

    def measure(self, parts: Mapping[str, Callable[[], Section]], *, seconds_each: float) -> dict[str, Section]:
        """Measure what has no line yet, and say beforehand how long that takes; all lines of these parts."""
        known = self.read()
        missing = [key for key in parts if key not in known]
        print(
            f"{len(missing)} of {len(parts)} parts, about {len(missing) * seconds_each / 60:.0f} minutes.", flush=True
        )
        for number, key in enumerate(missing, start=1):
            print(f"[{number}/{len(missing)}] {key}", flush=True)
            began = time.monotonic()
            self.add(key, parts[key]() | {"seconds_of_machine": round(time.monotonic() - began, 1)})
        known = self.read()
        return {key: known[key] for key in parts}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    from benchmarks.__main__ import CHAPTERS

    write_page(CHAPTERS)


if __name__ == "__main__":
    main()
