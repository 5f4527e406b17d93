"""One run's folder, followed: metrics and journal, read in slices between which the event loop serves others."""

import asyncio
import gc
import time
import tomllib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from services.dashboard.history.columns import Columns
from services.dashboard.history.journal import JournalIndex
from services.dashboard.history.records import WindowRecord
from services.dashboard.history.responses import ResponseIndex
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.json_lines import JsonLinesFollower, Line, plain
from tppo.run_folder.paths import RunPaths

FRESH_SECONDS = 0.2
"""A look this recent is not repeated."""
FREEZE_LINES = 20_000
"""Then what was read is taken out of the garbage collector's sight: it has no cycles, and each look at half a million
records would hold up an answer for a tenth of a second and more."""
JOURNAL_BYTES = 32 * 1024 * 1024
"""Of a longer journal, the older lines are left out: as many rollouts as are kept, read in some two seconds."""
MAX_SETTINGS_BYTES = 1024 * 1024
MAX_NEW_LINES = 200
MAX_NEW_EVENTS = 50
MAX_NEW_WINDOWS = 500

Fields = dict[str, Any]
Result = TypeVar("Result")


@dataclass
class News:
    """What was read since the last `take_news`; bounded, the oldest goes first."""

    steps: deque[Fields] = field(default_factory=lambda: deque(maxlen=MAX_NEW_LINES))
    evaluations: deque[Fields] = field(default_factory=lambda: deque(maxlen=MAX_NEW_LINES))
    events: deque[Fields] = field(default_factory=lambda: deque(maxlen=MAX_NEW_EVENTS))
    windows: dict[tuple[str, int], WindowRecord] = field(default_factory=dict)
    is_replaced: bool = False
    """A file was replaced: what was read before may no longer hold."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.steps or self.evaluations or self.events or self.windows or self.is_replaced)

    def note_window(self, window: WindowRecord) -> None:
        """A window whose picture has changed."""
        key = (window.rollout, window.window)
        self.windows.pop(key, None)
        self.windows[key] = window
        if len(self.windows) > MAX_NEW_WINDOWS:
            del self.windows[next(iter(self.windows))]


class RunHistory:
    """What a run has left behind so far."""

    def __init__(self, path: Path, *, name: str, responses: Path, settings: Fields | None = None) -> None:
        self.paths = RunPaths(path)
        self.name = name
        self.settings = settings_of(path) if settings is None else settings
        self.steps = Columns()
        self.evaluations = Columns()
        self.journal = JournalIndex()
        self.responses = ResponseIndex(responses)
        self._metrics_tail = JsonLinesFollower(self.paths.metrics)
        self._journal_tail = JsonLinesFollower(self.paths.journal, start_bytes=JOURNAL_BYTES)
        self._news = News()
        self._remembered: dict[str, tuple[Any, Any]] = {}
        self._lock = asyncio.Lock()
        self._refreshed_at = -FRESH_SECONDS
        self._num_unfrozen = 0

    @property
    def step(self) -> int:
        """Training steps done."""
        step = self.steps.latest.get("step")
        return step if isinstance(step, int) else 0

    @property
    def total_training_steps(self) -> int:
        """As configured; 0 where it is not known."""
        total = self.setting("run", "total_training_steps")
        return total if isinstance(total, int) else 0

    @property
    def last_time(self) -> float | None:
        """Of the newest line in the folder, seconds since the epoch."""
        times = [self.journal.last_time, self.steps.latest.get("time"), self.evaluations.latest.get("time")]
        return max((one for one in times if isinstance(one, int | float)), default=None)

    def setting(self, section: str, key: str) -> Any:
        """A key of the configuration; None where it is missing."""
        table = self.settings.get(section)
        return table.get(key) if isinstance(table, dict) else None

    def data_files(self, *, is_evaluation: bool) -> list[Path]:
        """Where the prompts lie, as configured."""
        if not is_evaluation:
            return _paths_in(self.setting("data", "train_files"))
        sets = self.setting("evaluation", "sets")
        named = [path for files in sets.values() for path in _paths_in(files)] if isinstance(sets, dict) else []
        return [*_paths_in(self.setting("data", "val_files")), *named]

    def tokenizer_files(self) -> list[Path]:
        """Where the policy's tokenizer may be, the likeliest place first."""
        checkpoints = CheckpointFolder(self.paths.checkpoints)
        folders = [checkpoints.of_step(step) / "actor" for step in reversed(checkpoints.complete_steps())]
        model = self.setting("model", "path")
        folders += [Path(model)] if isinstance(model, str) and model else []
        return [folder / "tokenizer.json" for folder in folders]

    async def refresh(self) -> None:
        """Read what is new, however much it is."""
        async with self._lock:
            if time.monotonic() - self._refreshed_at < FRESH_SECONDS:
                return
            for read_on in (self._read_metrics, self._read_journal):
                while read_on():  # noqa: ASYNC110 (nothing is waited for: the event loop serves others)
                    await asyncio.sleep(0)
            self._refreshed_at = time.monotonic()

    def remembered(self, name: str, key: Any, compute: Callable[[], Result]) -> Result:
        """What was computed for this key last time, or is computed now."""
        known = self._remembered.get(name)
        if known is None or known[0] != key:
            known = self._remembered[name] = (key, compute())
        result: Result = known[1]
        return result

    def take_news(self) -> News:
        """What was read since the last call."""
        news, self._news = self._news, News()
        return news

    def _read_metrics(self) -> bool:
        """Whether there is more."""
        part = self._metrics_tail.read()
        if part.is_replaced:
            self.steps, self.evaluations = Columns(), Columns()
            self._news = News(is_replaced=True)
        for _, line in part.lines:
            if line.get("kind") == "step":
                self.steps.add(line)
                self._news.steps.append(plain(line))
            elif line.get("kind") == "evaluation":
                self.evaluations.add(line)
                self._news.evaluations.append(plain(line))
        return part.has_more

    def _read_journal(self) -> bool:
        """Whether there is more."""
        part = self._journal_tail.read()
        if part.is_replaced:
            self.journal = JournalIndex()
            self._news = News(is_replaced=True)
        for line in part.lines:
            self._fold(line)
        self._num_unfrozen += len(part.lines)
        if self._num_unfrozen >= FREEZE_LINES:
            self._num_unfrozen = 0
            gc.freeze()
        return part.has_more

    def _fold(self, line: Line) -> None:
        for window in self.journal.add(line):
            self._news.note_window(window)
        position, fields = line
        if fields.get("kind") == "event":
            self._news.events.append({**plain(fields), "id": position})


def _paths_in(files: object) -> list[Path]:
    """Of a list of the configuration."""
    return [Path(file) for file in files if isinstance(file, str)] if isinstance(files, list) else []


def settings_of(folder: Path) -> Fields:
    """The tables of a run's resolved configuration; none where the file is missing or is no TOML."""
    path = RunPaths(folder).config
    try:
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            return {}
        settings: dict[str, Any] = plain(tomllib.loads(path.read_text(encoding="utf-8")))
        return settings
    except (OSError, ValueError, RecursionError):
        return {}
