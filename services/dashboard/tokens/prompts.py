"""Single rows of the data files, found by their position and read on request."""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
from pyarrow import parquet

from tppo.run_folder.json_lines import parsed_object

MAX_FILES = 8
"""Whose lines' places are remembered: 8 bytes a line."""
MAX_TEXT = 200_000
"""Characters of a prompt that are passed on."""

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class PromptText:
    """A data row, for a person."""

    text: str
    ground_truth: str | None


class Remembered(OrderedDict[Key, Value]):
    """The newest few of a function's results."""

    def __init__(self, max_items: int) -> None:
        super().__init__()
        self._max_items = max_items
        self._lock = threading.Lock()

    def of(self, key: Key, compute: Callable[[], Value]) -> Value:
        """What is known, or what the function says now; one caller at a time."""
        with self._lock:
            if key not in self:
                self[key] = compute()
            self.move_to_end(key)
            while len(self) > self._max_items:
                self.popitem(last=False)
            return self[key]


class Prompts:
    """Rows of JSONL and parquet files."""

    def __init__(self) -> None:
        self._places: Remembered[tuple[Path, float, int], array[int]] = Remembered(MAX_FILES)

    def row(self, files: Sequence[Path], index: int, prompt_key: str) -> PromptText | None:
        """The row of that number in the files laid end to end; None where it cannot be read."""
        for file in files:
            try:
                num_rows, read = self._opened(file)
                if index < num_rows:
                    found = read(index)
                    return None if found is None else _prompt_text(found, prompt_key)
            except (OSError, pyarrow.ArrowException):
                return None
            index -= num_rows
        return None

    def _opened(self, file: Path) -> tuple[int, Callable[[int], dict[str, Any] | None]]:
        """How many rows a file has, and how one is read."""
        if file.suffix == ".parquet":
            return parquet.read_metadata(file).num_rows, lambda index: _parquet_row(file, index)
        status = file.stat()
        places = self._places.of((file, status.st_mtime, status.st_size), lambda: _places(file))
        return len(places), lambda index: _line_at(file, places[index])


def _places(file: Path) -> "array[int]":
    """Where each line begins that is not empty."""
    places, position = array("q"), 0
    with file.open("rb") as lines:
        for line in lines:
            if line.strip():
                places.append(position)
            position += len(line)
    return places


def _line_at(file: Path, place: int) -> dict[str, Any] | None:
    with file.open("rb") as lines:
        lines.seek(place)
        return parsed_object(lines.readline())


def _parquet_row(file: Path, index: int) -> dict[str, Any] | None:
    with parquet.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            num_rows = opened.metadata.row_group(group).num_rows
            if index < num_rows:
                row: dict[str, Any] = opened.read_row_group(group).slice(index, 1).to_pylist()[0]
                return row
            index -= num_rows
    return None


def _prompt_text(row: dict[str, Any], prompt_key: str) -> PromptText:
    reward_model = row.get("reward_model")
    answer = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    return PromptText(_rendered(row.get(prompt_key))[:MAX_TEXT], None if answer is None else str(answer)[:MAX_TEXT])


def _rendered(prompt: Any) -> str:
    """A text as it is; chat messages one below the other, without the model's own marks between them."""
    if isinstance(prompt, list):
        turns = [one for one in prompt if isinstance(one, dict)]
        return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in turns)
    return str(prompt)
