"""Scored responses on disk: `responses/NAME.jsonl` in the run's folder, a line for each, written by the service NAME.

A line is written before its score is delivered. So none is missing, and there may be duplicates: after a crash, or when
two services scored the same request. Readers keep the latest of each (rollout_id, attempt).
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tppo.rollout import FinishReason, RewardRequest, Score
from tppo.run_folder.json_files import fits
from tppo.run_folder.json_lines import Fields, JsonLinesWriter, read_objects
from tppo.run_folder.paths import RunPaths
from tppo.security.private_files import private_folder

LOGGED = {
    "rollout_id": str,
    "attempt": int,
    "data_source": str,
    "prompt": str,
    "response": str,
    "ground_truth": str,
    "extra_info": dict,
    "num_response_tokens": int,
    "is_evaluation": bool,
    "status": str,
    "score": float | None,
    "function": str,
    "time": float,
}
"""What readers need of a line."""


class ResponseLog:
    """Appends to one service's file. A full disk does not stop the scoring: it is logged and reported."""

    def __init__(self, run_folder: Path, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self._writer = JsonLinesWriter(RunPaths(run_folder).responses / f"{name}.jsonl")
        self._run_folder = run_folder
        self._clock = clock

    @property
    def last_error(self) -> str:
        """Why the last line was not written; empty when it was."""
        return self._writer.last_error

    def append(self, request: RewardRequest, score: Score) -> None:
        with suppress(OSError):  # the write that follows reports it
            private_folder(self._run_folder)
            self._writer.path.parent.mkdir(exist_ok=True)
        self._writer.append([_line(request, score) | {"time": self._clock()}])


def logged_responses(run_folder: Path) -> list[Fields]:
    """The latest line of each (rollout_id, attempt), by their times; torn and foreign lines are left out."""
    latest: dict[tuple[str, int], Fields] = {}
    for path in sorted(RunPaths(run_folder).responses.glob("*.jsonl")):
        for line in (one for one in read_objects(path) if fits(one, LOGGED)):
            key = line["rollout_id"], line["attempt"]
            if key not in latest or latest[key]["time"] <= line["time"]:
                latest[key] = line
    return sorted(latest.values(), key=lambda line: line["time"])


def request_of(line: Fields) -> RewardRequest:
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
        finish_reason=FinishReason[line["finish_reason"]] if line.get("finish_reason") else None,
    )


def _line(request: RewardRequest, score: Score) -> Fields:
    return {
        "rollout_id": request.rollout_id,
        "attempt": request.attempt,
        "data_source": request.data_source,
        "prompt": request.prompt,
        "response": request.response,
        "ground_truth": request.ground_truth,
        "extra_info": json.loads(request.extra_info or "{}", parse_constant=lambda _: None),
        "num_response_tokens": request.num_response_tokens,
        "is_evaluation": request.is_evaluation,
        "finish_reason": request.finish_reason.name if request.finish_reason else None,
        "status": score.status.name,
        "score": score.score,
        "components": dict(score.components),
        "function": score.function,
        "error": score.error,
        "details": score.details,
        "seconds": score.duration_seconds,
    }
