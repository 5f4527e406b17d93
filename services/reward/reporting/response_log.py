"""Scored responses on disk: `responses/NAME.jsonl` in the run's folder, a line for each, written by the service NAME.

A line is there before its score is delivered. So none is missing, and one may be there twice: after a crash, or when
two services scored the same request. Readers keep the latest of each (rollout_id, attempt).
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tppo.rollout import RewardRequest, Score

log = logging.getLogger(__name__)

FOLDER = "responses"
Line = dict[str, Any]


class ResponseLog:
    """Appends to one service's file. A full disk does not stop the scoring: it is logged and shown."""

    def __init__(self, run_folder: Path, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = run_folder / FOLDER / f"{name}.jsonl"
        self._clock = clock
        self._separator = "\n"  # an earlier life may have left half a line
        self.last_error = ""

    def append(self, request: RewardRequest, score: Score) -> None:
        """One response with its score."""
        line = json.dumps(_line(request, score) | {"time": self._clock()}, ensure_ascii=False)
        try:
            self._write(line)
            self.last_error = ""
        except OSError as error:
            self.last_error = f"{self._path}: {error}"
            log.error("response of %s not logged: %s", score.rollout_id, self.last_error)

    def _write(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._separator}{line}\n")
        self._separator = ""


def logged_responses(run_folder: Path) -> list[Line]:
    """The latest line of each (rollout_id, attempt), in the order of their times; torn lines are left out."""
    latest: dict[tuple[str, int], Line] = {}
    for path in sorted((run_folder / FOLDER).glob("*.jsonl")):
        for line in _lines(path):
            key = line["rollout_id"], line["attempt"]
            if key not in latest or latest[key]["time"] <= line["time"]:
                latest[key] = line
    return sorted(latest.values(), key=lambda line: line["time"])


def request_of(line: Line) -> RewardRequest:
    """What was scored."""
    return RewardRequest(
        rollout_id=line["rollout_id"],
        attempt=line["attempt"],
        data_source=line["data_source"],
        prompt=line["prompt"],
        response=line["response"],
        ground_truth=line["ground_truth"],
        extra_info=json.dumps(line["extra_info"]),
        num_response_tokens=line["num_response_tokens"],
        is_evaluation=line["is_evaluation"],
    )


def _line(request: RewardRequest, score: Score) -> Line:
    return {
        "rollout_id": request.rollout_id,
        "attempt": request.attempt,
        "data_source": request.data_source,
        "prompt": request.prompt,
        "response": request.response,
        "ground_truth": request.ground_truth,
        "extra_info": json.loads(request.extra_info or "{}"),
        "num_response_tokens": request.num_response_tokens,
        "is_evaluation": request.is_evaluation,
        "status": score.status.name,
        "score": score.score,
        "components": dict(score.components),
        "function": score.function,
        "error": score.error,
        "seconds": score.duration_seconds,
    }


def _lines(path: Path) -> Iterator[Line]:
    """The lines that are whole; a service that was killed may leave half a one."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in filter(str.strip, file):
            try:
                yield json.loads(text)
            except ValueError:
                log.warning("%s: a torn line is left out", path)
