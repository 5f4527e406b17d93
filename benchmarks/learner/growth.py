"""How the learner's control plane grows with the rollouts in flight: cost per window, memory, checkpoints; no model.

    OMP_NUM_THREADS=1 python -m benchmarks.learner.growth

Windows and scores are made as generators and reward services would send them, and go through what the learner does with
each: decoding, the border, the ledger, the scheduler; steps are "trained" by zeros. Responses have two windows. Large
steps take half of what is in flight, small ones 32 rows; in lockstep a step is all of it. Seconds are CPU time of this
process, and as a ratio to those for the fewest rollouts of the same row. All sizes are measured in turns, since a
machine's speed may change within seconds: a ratio is that within a turn, and of both the median counts.
"""

import gc
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import truediv
from statistics import fmean, median

from benchmarks import results
from benchmarks.learner.control_plane import PARTS, SHORT, control_plane
from benchmarks.process_watch import tree
from benchmarks.results import Chapter, Lines, Section, chapter_folder, chapter_parser, table
from learner.rollouts.ledger_state import captured

SIZES = (100, 1_000, 10_000, 100_000)
SMALL_STEP = 32
LARGEST_LAG = 1000  # of a configuration
LONG = 8192  # tokens of a window
READ_COUNT = 256  # entries of the inbox in one read, where many have come
SECONDS_EACH = 20.0
TURNS = 3  # of all sizes
SECONDS_AT_LEAST = 1.0  # of a size and turn
STEADY_TURNS = 5  # of the small steps one after the other, each a few seconds long
LARGE, LARGE_SINGLY = "large steps, many windows a read", "large steps, one window a read"
SMALL, LOCKSTEP = "steps of 32, one window a read", "lockstep, one window a read"


def cost(*, num_in_flight: int, mode: str, num_rows: int, read_count: int) -> Section:
    """Microseconds for each window that was trained, by part."""
    plane = control_plane(num_in_flight=num_in_flight, mode=mode, num_rows=num_rows)
    plane.step(read_count=READ_COUNT)  # the first answers, to all that is in flight
    plane.seconds, plane.num_windows = dict.fromkeys(PARTS, 0.0), 0
    began = time.monotonic()
    seconds = 0.0
    while seconds < SECONDS_AT_LEAST or (seconds < SECONDS_EACH / 2 and plane.num_windows < 4 * num_in_flight):
        plane.step(read_count=read_count)
        seconds = time.monotonic() - began
    return {part: 1e6 * seconds / plane.num_windows for part, seconds in plane.seconds.items()}


def memory(num_in_flight: int) -> Section:
    """Bytes of a rollout in flight, and of each of its tokens; a checkpoint's ledger, captured and as bytes."""
    plane = control_plane(
        num_in_flight=num_in_flight, mode="streaming", num_rows=max(1, num_in_flight // 2), is_open=False
    )
    plane.manager.scheduler.order.ordinal("0-0-0")  # prompts and their order are no rollout's
    gc.collect()
    tracemalloc.start()
    plane.open()
    requested = tracemalloc.get_traced_memory()[0]
    plane.enter(plane.answers())
    plane.manager.ledger.outbox.clear()
    arrived = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    began = time.process_time()
    capture = captured(plane.manager)
    copied = time.process_time()
    num_bytes = sum(map(len, capture.json_parts()))
    num_bytes += sum(len(part) for parts in capture.tensors().values() for part in parts)
    return {
        "bytes_of_rollout": requested / num_in_flight,
        "bytes_of_token": (arrived - requested) / num_in_flight / SHORT,
        "capture_seconds": copied - began,
        "write_seconds": time.process_time() - copied,
        "checkpoint_bytes_of_rollout": num_bytes / num_in_flight,
    }


def inbox(window_length: int) -> Section:
    """Windows of this length a second, from their bytes into the ledger."""
    num = max(64, 2_000_000 // window_length)
    plane = control_plane(num_in_flight=num, mode="streaming", num_rows=num // 2, window_length=window_length)
    payloads = plane.answers()
    plane.enter(payloads)
    return {"windows_per_second": len(payloads) / plane.seconds["inbox"], "bytes": fmean(map(len, payloads))}


def steady(num_steps: int) -> Section:
    """The turn that is in the middle, by how much longer its late steps take."""
    turns = [one_after_the_other(num_steps) for _ in range(STEADY_TURNS)]
    return sorted(turns, key=lambda turn: turn["late"] / turn["early"])[STEADY_TURNS // 2]


def one_after_the_other(num_steps: int) -> Section:
    """Small steps: microseconds of early and of late ones, and the memory that was added."""
    plane = control_plane(num_in_flight=2 * SMALL_STEP, mode="streaming", num_rows=SMALL_STEP)
    part, found = num_steps // 10, []
    for number in range(num_steps):
        if number == part:
            gc.collect()
            early = _resident_mb()
        began = time.process_time()
        plane.step(read_count=1)
        found.append(time.process_time() - began)
    gc.collect()
    return {
        "num_steps": num_steps,
        "early": 1e6 * median(found[10 : 10 + part]),
        "late": 1e6 * median(found[-part:]),
        "added_mb": _resident_mb() - early,
    }


def _resident_mb() -> float:
    return next(tree(os.getpid())).memory_mb


def parts(sizes: Sequence[int], num_steps: int) -> dict[str, Callable[[], Section]]:
    """Each with its key in the file of what is done."""
    found: dict[str, Callable[[], Section]] = {}
    for turn in range(TURNS):
        found |= {f"{key}: {turn}": measured for key, measured in _costs_of(sizes)}
    for size in sizes:
        found[f"memory: {size}"] = partial(memory, size)
    found |= {f"inbox: {length}": partial(inbox, length) for length in (SHORT, 256, LONG)}
    found[f"steady: {num_steps}"] = partial(steady, num_steps)
    return found


def _costs_of(sizes: Sequence[int]) -> Iterator[tuple[str, Callable[[], Section]]]:
    """One turn."""
    for size in sizes:
        half, small = max(1, size // 2), min(SMALL_STEP, size // 2)
        for way, mode, num_rows, read_count in (
            (LARGE, "streaming", half, READ_COUNT),
            (LARGE_SINGLY, "streaming", half, 1),
            (SMALL, "streaming", small, 1),
            (LOCKSTEP, "lockstep", size, 1),
        ):
            if size // num_rows - 1 <= LARGEST_LAG:
                yield (
                    f"{way}: {size}",
                    partial(cost, num_in_flight=size, mode=mode, num_rows=num_rows, read_count=read_count),
                )


def tables(section: Section) -> dict[str, str]:
    return {
        "growth": cost_table(section),
        "growth-memory": "\n\n".join((memory_table(section), steady_text(section))),
    }


def sizes_of(section: Section) -> list[int]:
    return sorted({int(key.partition(": ")[2]) for key in section["parts"] if key.startswith("memory")})


def cost_table(section: Section) -> str:
    sizes = sizes_of(section)
    rows = []
    for way in (LARGE, LARGE_SINGLY, SMALL, LOCKSTEP):
        found = {size: of_turns for size in sizes if (of_turns := _costs(section, way, size))}
        base = found[min(found)]
        cells = {
            size: f"{median(of_turns):.0f} ({median(map(truediv, of_turns, base)):.1f})"
            for size, of_turns in found.items()
        }
        rows.append([way, *(cells.get(size, "") for size in sizes)])
    what = f"CPU microseconds for a window (to the first column), medians of {TURNS} turns"
    head = [what, *(f"{size:,} in flight" for size in sizes)]
    return table(head, rows)


def _costs(section: Section, way: str, size: int) -> list[float]:
    """Of each turn, all parts together; empty where the size was left out."""
    keys = (f"{way}: {size}: {turn}" for turn in range(TURNS))
    found = [section["parts"][key] for key in keys if key in section["parts"]]
    return [sum(numbers[part] for part in PARTS) for numbers in found]


def memory_table(section: Section) -> str:
    rows = [
        [
            f"{size:,}",
            f"{numbers['bytes_of_rollout']:,.0f}",
            f"{numbers['bytes_of_token']:.1f}",
            f"{1000 * numbers['capture_seconds']:.1f}",
            f"{1000 * numbers['write_seconds']:.1f}",
            f"{numbers['checkpoint_bytes_of_rollout']:,.0f}",
        ]
        for size in sizes_of(section)
        for numbers in [section["parts"][f"memory: {size}"]]
    ]
    head = [
        "rollouts in flight",
        "bytes each",
        "and for each token",
        "checkpoint: ms to capture",
        "ms to make bytes of it",
        f"bytes for a rollout of {SHORT} tokens",
    ]
    return table(head, rows)


def steady_text(section: Section) -> str:
    rates = [
        f"{numbers['windows_per_second']:,.0f} of {key.partition(': ')[2]} tokens"
        for key, numbers in section["parts"].items()
        if key.startswith("inbox")
    ]
    found = next(numbers for key, numbers in section["parts"].items() if key.startswith("steady"))
    longer = found["late"] / found["early"]
    return (
        f"Windows that the inbox takes in a second of CPU time: {', '.join(rates)}. Steps of {SMALL_STEP} rows, one "
        f"after the other: the last tenth of {found['num_steps']} takes {longer:.2f} times as long as the first, "
        f"in the middle one of {STEADY_TURNS} turns, and {found['added_mb']:.1f} MB of memory were added."
    )


CHAPTER = Chapter(
    name="growth",
    module="benchmarks.learner.growth",
    minutes=9,
    places=("growth", "growth-memory"),
    tables=tables,
)


def main(argv: Sequence[str]) -> None:
    parser = chapter_parser(__doc__, quick="few rollouts")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rollouts in flight")
    parser.add_argument("--steps", type=int, default=1500, help="one after the other, for time and memory")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.sizes, arguments.steps = (100, 1000), 100
    wanted = parts(arguments.sizes, arguments.steps)
    section = {"parts": Lines(chapter_folder(arguments) / "growth.jsonl").measure(wanted, seconds_each=SECONDS_EACH)}
    print("\n\n".join(tables(section).values()))
    if not arguments.quick:
        seconds = sum(numbers["seconds_of_machine"] for numbers in section["parts"].values())
        results.keep(CHAPTER.name, section, seconds=seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
