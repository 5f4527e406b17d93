"""Scored responses on disk: `responses/NAME.jsonl` in the run's folder, a line for each, written by the service NAME.

All of them, or a sample by prompts, so that a prompt can be followed over the epochs.

A line is written before its score is delivered. So none is missing, and there may be duplicates: after a crash, or when
two services scored the same request. Readers keep the latest of each (rollout_id, attempt).
"""

import json
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tppo.rollout import FinishReason, RewardRequest, Score, prompt_of
from tppo.run_folder.json_lines import Fields, JsonLinesWriter, read_objects
from tppo.run_folder.paths import RunPaths
from tppo.run_folder.response_lines import is_response_line
from tppo.security.private_files import private_folder


@dataclass(frozen=True, slots=True)
class Sample:
    """Which responses are kept: those of this share of the prompts, and all of evaluation."""

    share: float
    max_bytes: int

    def holds(self, request: RewardRequest, num_bytes: int) -> bool:
        """Whether this one is kept in a file that has so many bytes already.

        A fuller file takes a subset of the prompts that it took before, so it never reaches its bound, and the prompts
        that are left are kept to the end of the run.
        """
        room = max(0.0, 1 - num_bytes / self.max_bytes)
        share = 1.0 if request.is_evaluation and self.share else self.share
        return place_of_prompt(request) < share * room


def place_of_prompt(request: RewardRequest) -> float:
    """From 0 to below 1, the same for every response of a prompt: a hash of its index, which its rollout ids name."""
    return zlib.crc32(f"prompt {prompt_of(request.rollout_id)}".encode()) / 2**32


class ResponseLog:
    """Appends to one service's file. A full disk does not stop the scoring: it is logged and reported."""

    def __init__(
        self,
        run_folder: Path,
        name: str,
        *,
        sample: Sample | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """All responses are written where there is no `sample`."""
        self._sample = sample
        self._writer = JsonLinesWriter(RunPaths(run_folder).responses / f"{name}.jsonl")
        self._run_folder = run_folder
        self._clock = clock

    @property
    def last_error(self) -> str:
        """Why the last line was not written; empty when it was."""
        return self._writer.last_error

    def append(self, request: RewardRequest, score: Score) -> None:
        """Write it, if it is one of those that are kept."""
        if self._sample is not None and not self._sample.holds(request, self._num_bytes()):
            return
        with suppress(OSError):  # the write that follows reports it
            private_folder(self._run_folder)
            self._writer.path.parent.mkdir(exist_ok=True)
        self._writer.append([_line(request, score) | {"time": self._clock()}])

    def _num_bytes(self) -> int:
        try:
            return self._writer.path.stat().st_size
        except OSError:
            return 0


def logged_responses(run_folder: Path) -> list[Fields]:
    """The latest line of each (rollout_id, attempt), by their times; torn and foreign lines are left out."""
    latest: dict[tuple[str, int], Fields] = {}
    for path in sorted(RunPaths(run_folder).responses.glob("*.jsonl")):
        for line in filter(is_response_line, read_objects(path)):
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
        num_not_sampled_tokens=line.get("num_not_sampled_tokens", 0),  # not in lines of earlier releases
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
        "num_not_sampled_tokens": request.num_not_sampled_tokens,
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
