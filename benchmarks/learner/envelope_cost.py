"""What it costs that each record of the inbox is sealed by its writer and verified by the learner.

    python -m benchmarks.learner.envelope_cost

A window goes from a generator's record to the learner's, through codec and border, without and with an envelope; left
out are Redis and the disk, which take most of the time. Prints microseconds a record, the median of the rounds.
"""

import statistics
import time

from benchmarks.learner.archive_cost import a_window
from learner.rollouts.border import Border
from tppo import codec
from tppo.rollout import Window
from tppo.security.envelope import PLAIN, Records, SealedRecords
from tppo.security.record_keys import sealed_records

NUM_RECORDS = 200
ROUNDS = 15
NUM_TOKENS = (32, 256, 1024, 8192)  # the quick start's windows have 32


def main() -> int:
    sealed = sealed_records(["a-secret-of-the-benchmark"])
    print("| tokens a window | bytes | without | with an envelope | the envelope |")
    print("|---|---|---|---|---|")
    for num_tokens in NUM_TOKENS:
        print(line(num_tokens, sealed), flush=True)
    return 0


def line(num_tokens: int, sealed: SealedRecords) -> str:
    """One row of the table."""
    window = a_window(num_tokens)
    without, within = [], []
    for _ in range(ROUNDS):
        without.append(microseconds(window, PLAIN))
        within.append(microseconds(window, sealed))
    plain, whole = statistics.median(without), statistics.median(within)
    size = len(codec.encode_inbox_record(window))
    return f"| {num_tokens} | {size} | {plain:.1f} us | {whole:.1f} us | {whole - plain:.1f} us |"


def microseconds(window: Window, records: Records) -> float:
    """Of one record, from writer to reader."""
    border = Border(records=records)
    began = time.perf_counter()
    for _ in range(NUM_RECORDS):
        border.admit(records.payload(window))
    return (time.perf_counter() - began) / NUM_RECORDS * 1e6


if __name__ == "__main__":
    raise SystemExit(main())
