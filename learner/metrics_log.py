"""`metrics.jsonl`: one JSON object per training step and per evaluation, in the order in which they happened."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends lines; a resumed run first drops those after its checkpoint, so that no step stands there twice."""

    def __init__(self, path: Path, *, through_step: int) -> None:
        self._path = path
        kept = [line for line in self._lines() if json.loads(line)["step"] <= through_step]
        path.write_text("".join(kept), encoding="utf-8")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object at once; numbers that are not finite, which JSON lacks, become null."""
        finite = {name: None if _is_not_finite(value) else value for name, value in line.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")

    def _lines(self) -> list[str]:
        """Whole lines; the last one is missing its end when the process died in writing it."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
