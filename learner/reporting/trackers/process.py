"""A tracker's process: `python -m learner.reporting.trackers.process tensorboard|wandb`.

Loop: consumes lines of JSON on standard input, a `Beginning` and then lines of metrics.jsonl / waits for the next one /
unblocked by the learner / produces points, and for each line an answer on standard output. Ends with its input, however
the learner ended.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

from learner.reporting.trackers.beginning import Beginning
from learner.reporting.trackers.told import Told, points_of

WRITERS = {"tensorboard": "learner.reporting.trackers.event_file", "wandb": "learner.reporting.trackers.wandb_run"}
NICENESS = 10  # training comes first
MAX_SENTENCE_CHARS = 500
FINISH_SECONDS = 15  # after the input's end; a process that takes longer is ended by its alarm


class Writer(Protocol):
    """What a tracker takes."""

    def write(self, step: int, seconds: float, points: Mapping[str, float]) -> None:
        """Numbers of a step, or of its evaluation, at a time since the epoch."""

    def close(self) -> None:
        """Nothing more comes."""


def main(kind: str, source: IO[str], answers: IO[str], *, at_end: Callable[[], object] = lambda: None) -> None:
    """Until the input ends. Whatever a package raises is an answer; the next line is tried all the same."""
    beginning = Beginning(**json.loads(source.readline()))
    try:
        told, writer = importlib.import_module(WRITERS[kind]).begin(beginning)
    except Exception as error:
        _answer(answers, _sentence(error))
        return
    _answer(answers, "")
    with contextlib.suppress(BrokenPipeError):  # the learner was killed, and nobody reads the answers
        for line in source:
            if line.endswith("\n"):
                _answer(answers, _written(writer, told, json.loads(line)))
    at_end()
    writer.close()


def _written(writer: Writer, told: Told, line: Mapping[str, Any]) -> str:
    """Empty, or why not."""
    points = points_of(line)
    if not points or told.has(line):
        return ""
    try:
        writer.write(line["step"], line["time"], points)
        told.note(line)
    except Exception as error:
        return _sentence(error)
    return ""


def _answer(answers: IO[str], error: str) -> None:
    answers.write(json.dumps({"error": error}) + "\n")
    answers.flush()


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_SENTENCE_CHARS]


def _own_output() -> IO[str]:
    """Standard output for the answers alone: what packages print goes to the log."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the learner stops first, and then says so by closing the input
    os.nice(NICENESS)
    main(sys.argv[1], sys.stdin, _own_output(), at_end=lambda: signal.alarm(FINISH_SECONDS))
