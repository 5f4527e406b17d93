"""A tracker's process: `python -m learner.reporting.trackers.process tensorboard|wandb`.

Loop: consumes lines of JSON on standard input, a `TrackerStart` and then lines of metrics.jsonl / waits for the next
one / unblocked by the learner / produces points, and for each line a reply on standard output. Ends with its input,
however the learner ended; SIGTERM and SIGINT are ignored until then.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from learner.reporting.trackers.contract import ReportedSteps, TrackerStart, TrackerWriter, points_of
from learner.reporting.trackers.writers import STARTS

NICENESS = 10  # training comes first
MAX_SENTENCE_CHARS = 500
FINISH_SECONDS = 15  # after the input's end; a process that takes longer is ended by its alarm


def main(kind: str, source: IO[str], replies: IO[str], *, at_end: Callable[[], object] = lambda: None) -> None:
    """Until the input ends. Whatever a package raises is a reply; the next line is tried all the same."""
    start = TrackerStart(**json.loads(source.readline()))
    try:
        reported, writer = STARTS[kind](start)
    except Exception as error:
        _reply(replies, _sentence(error))
        return
    _reply(replies, "")
    with contextlib.suppress(BrokenPipeError):  # the learner was killed, and nobody reads the replies
        for line in source:
            if line.endswith("\n"):
                _reply(replies, _write(writer, reported, json.loads(line)))
    at_end()
    writer.close()


def _write(writer: TrackerWriter, reported: ReportedSteps, line: Mapping[str, Any]) -> str:
    """Empty, or why it failed."""
    points = points_of(line)
    if not points or reported.includes(line):
        return ""
    try:
        writer.write(line["step"], line["time"], points)
        reported.add(line)
    except Exception as error:
        return _sentence(error)
    return ""


def _reply(replies: IO[str], error: str) -> None:
    replies.write(json.dumps({"error": error}) + "\n")
    replies.flush()


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_SENTENCE_CHARS]


def _own_output() -> IO[str]:
    """Standard output for the replies alone: what packages print goes to the log."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the learner stops first, and then says so by closing the input
    os.nice(NICENESS)
    main(sys.argv[1], sys.stdin, _own_output(), at_end=lambda: signal.alarm(FINISH_SECONDS))
