"""The committed checkpoints of a run."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"global_step_(\d{1,12})")
MANIFEST = "manifest.json"
"""Written last: a folder without it was never finished."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that a resume, or transformers, can start from."""

    step: int
    path: Path
    committed_at: float  # seconds since the epoch
    num_bytes: int
    is_latest: bool
    is_best: bool
    accuracy: float | None  # of the best one


def checkpoints_of(run: Path) -> list[Checkpoint]:
    """In the order of their steps."""
    folder = run / "checkpoints"
    latest, best = _text(folder / "latest"), _table(folder / "best.json")
    found = []
    for path in sorted(folder.glob("global_step_*")):
        match = NAME.fullmatch(path.name)
        if match and (path / MANIFEST).is_file():
            is_best = best.get("step") == int(match[1])
            accuracy = best.get("accuracy") if is_best else None
            found.append(
                Checkpoint(
                    step=int(match[1]),
                    path=path,
                    committed_at=(path / MANIFEST).stat().st_mtime,
                    num_bytes=_num_bytes(path),
                    is_latest=path.name == latest,
                    is_best=is_best,
                    accuracy=accuracy if isinstance(accuracy, float) else None,
                )
            )
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _num_bytes(path: Path) -> int:
    files = _table(path / MANIFEST).get("files")
    sizes = files.values() if isinstance(files, dict) else []
    return sum(one[0] for one in sizes if isinstance(one, list) and one and isinstance(one[0], int))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _table(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
