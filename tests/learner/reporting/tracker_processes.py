"""Stand-ins for a tracker's process, and lines for it."""

import sys
from pathlib import Path
from typing import Any

from learner.reporting.trackers.contract import TrackerStart

ANSWER = 'import json, sys\nfor n, line in enumerate(sys.stdin):\n    print(json.dumps({"error": ""}), flush=True)\n'
"""Takes everything."""


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", text)


def a_start(folder: Path, *, through_step: int = 0, incarnation: int = 1, is_rolled_back: bool = False) -> TrackerStart:
    return TrackerStart(
        folder=str(folder),
        run="quick",
        run_id="abc",
        incarnation=incarnation,
        through_step=through_step,
        is_rolled_back=is_rolled_back,
        project="tppo",
        mode="offline",
        settings={"run": {"seed": 0}},
    )


def a_step(step: int, **numbers: Any) -> dict[str, Any]:
    return {"kind": "step", "step": step, "time": 1e9 + step, "reward/mean": step / 2, **numbers}


def an_evaluation(step: int) -> dict[str, Any]:
    return {"kind": "evaluation", "step": step, "time": 1e9 + step, "seconds_since_start": 1.0, "eval/accuracy": 0.5}
