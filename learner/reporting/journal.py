"""`journal.jsonl`: what happened to each window, and to the run, for its readers (docs/journal.md).

The learner decides nothing by it. A learner that resumes from a checkpoint reads its inbox again, so a line may have a
duplicate; a reader keeps the last one of each window and of each score.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from learner.rollouts.occurrences import Arrived, Dropped, Occurrence, Parked, Requested, Scored
from tppo.rollout import Window
from tppo.run_folder.json_lines import JsonLinesWriter

Line = dict[str, Any]


class JournalWriter:
    """Appends to the file; `step` is that of metrics.jsonl."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = JsonLinesWriter(path)
        self._clock = clock

    @property
    def last_error(self) -> str:
        """Why the file could not be written the last time; empty when it could."""
        return self._file.last_error

    def note(self, occurrences: Iterable[Occurrence], *, policy_version: int) -> None:
        """What happened in the ledger, while the policy had this version."""
        self._append([_line(one) | _version(one, policy_version) for one in occurrences])

    def trained(self, step: int, rows: Sequence[tuple[str, int]]) -> None:
        """The windows (rollout, index) made a step."""
        self._append([{"kind": "trained", "step": step, "rows": [list(row) for row in rows]}])

    def event(self, event: str, *, step: int, text: str, **more: Any) -> None:
        """Something that an operator wants to know, in a sentence."""
        self._append([{"kind": "event", "event": event, "step": step, "text": text, **more}])

    def _append(self, lines: Iterable[Line]) -> None:
        now = self._clock()
        self._file.append([{"time": now, **line} for line in lines])


@singledispatch
def _line(one: object) -> Line:
    raise AssertionError(f"{one} is no occurrence")


@_line.register
def _requested(one: Requested) -> Line:
    return {
        "kind": "requested",
        "rollout": one.rollout_id,
        "window": one.window_index,
        "prompt": one.prompt_index,
        "ordinal": one.ordinal,
        "start": one.num_tokens_before,
        "evaluation": one.is_evaluation,
    }


@_line.register
def _arrived(one: Arrived) -> Line:
    window = one.window
    return {
        "kind": "window",
        "rollout": window.rollout_id,
        "window": window.window_index,
        "generator": window.generator,
        "slot": window.slot,
        "started": window.started_at,
        "ended": window.ended_at,
        "tokens": len(window.tokens),
        "not_sampled": window.num_not_sampled,
        "versions": [[span.policy_version, span.num_tokens] for span in window.version_spans],
        **_kept_caches(window),
        "finish": window.finish_reason.name.lower(),
        "is_finished": one.is_finished,
        "evaluation": window.is_evaluation,
    }


@_line.register
def _scored(one: Scored) -> Line:
    score = one.score
    return {
        "kind": "score",
        "rollout": score.rollout_id,
        "attempt": score.attempt,
        "status": score.status.name,
        "score": score.score,
        "components": dict(score.components),
        "function": score.function,
        "seconds": score.duration_seconds,
        "error": score.error,
        "details": score.details,
        "evaluation": score.is_evaluation,
    }


@_line.register
def _parked(one: Parked) -> Line:
    return {"kind": "parked", "rollout": one.rollout_id, "window": one.window_index, "cause": one.cause}


@_line.register
def _dropped(one: Dropped) -> Line:
    return {"kind": "dropped", "rollout": one.rollout_id, "window": one.window_index, "reason": one.reason}


def _version(one: Occurrence, policy_version: int) -> Line:
    return {"version": policy_version} if isinstance(one, Requested) else {}


def _kept_caches(window: Window) -> Line:
    """Of each of the `versions` the oldest weights that its KV cache is of, where an update left one as it was."""
    if all(span.cache_version is None for span in window.version_spans):
        return {}
    spans = window.version_spans
    return {
        "cache_versions": [span.policy_version if span.cache_version is None else span.cache_version for span in spans]
    }
