"""What it costs that each record of the inbox is on the disk before a training step uses it.

    python -m benchmarks.learner.archive_cost --folder runs/archive_cost

A step's windows are archived as the inbox loop does it, in reads of so many records: written only, or written and
forced to the disk (fsync). Prints milliseconds, the median of the rounds and their range. The disk is what is measured:
choose a folder on the one that runs are on.
"""

import argparse
import shutil
import statistics
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from learner.persistence.archive import InboxArchive
from tppo.codec import encode_inbox_record
from tppo.rollout import FinishReason, VersionSpan, Window
from tppo.run_folder.durable import append_whole
from tppo.streams import InboxEntry

NUM_WINDOWS = 256  # of a training step
ROUNDS = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/archive_cost"))
    folder = parser.parse_args().folder
    print("| tokens a window | records a read | reads | written | written and on the disk | the price of a read |")
    print("|---|---|---|---|---|---|")
    try:
        for num_tokens in (64, 1024):
            for num_records in (1, 16, 256):
                print(line(folder, num_tokens, num_records), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def line(folder: Path, num_tokens: int, num_records: int) -> str:
    """One row of the table: a step's windows in reads of so many."""
    written, synced = [], []
    for _ in range(ROUNDS):  # alternating, so that what else the machine does meets both
        written.append(seconds_to_write(folder, num_tokens, num_records))
        synced.append(seconds_to_archive(folder, num_tokens, num_records))
    num_reads = NUM_WINDOWS // num_records
    price = (statistics.median(synced) - statistics.median(written)) / num_reads * 1000
    return f"| {num_tokens} | {num_records} | {num_reads} | {spread(written)} | {spread(synced)} | {price:.2f} ms |"


def seconds_to_write(folder: Path, num_tokens: int, num_records: int) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.perf_counter()
    for batch in reads(num_tokens, num_records):
        append_whole(folder / "log", b"".join(entry.payload for entry in batch))
    return time.perf_counter() - began


def seconds_to_archive(folder: Path, num_tokens: int, num_records: int) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    archive = InboxArchive(folder)
    began = time.perf_counter()
    for batch in reads(num_tokens, num_records):
        archive.append(batch)
    return time.perf_counter() - began


def reads(num_tokens: int, num_records: int) -> Iterator[list[InboxEntry]]:
    payload = encode_inbox_record(a_window(num_tokens))
    for first in range(1, NUM_WINDOWS + 1, num_records):
        yield [InboxEntry(f"{number}-0", payload) for number in range(first, first + num_records)]


def a_window(num_tokens: int) -> Window:
    return Window(
        "0-0-0",
        window_index=0,
        tokens=array("i", range(num_tokens)),
        logprobs=array("f", [-1.0] * num_tokens),
        version_spans=(VersionSpan(policy_version=1, num_tokens=num_tokens),),
        finish_reason=FinishReason.LENGTH,
    )


def spread(seconds: list[float]) -> str:
    low, high = min(seconds) * 1000, max(seconds) * 1000
    return f"{statistics.median(seconds) * 1000:.1f} ms ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
