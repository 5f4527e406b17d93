"""The runs in a folder: found by their configuration or their metrics, one level down or two (a comparison's runs)."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.dashboard.history.run import RunHistory, settings_of
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.metric_lines import EVALUATION, STEP, is_metric_line
from tppo.run_folder.paths import RunPaths, modified_at, trace_files

MAX_RUNS = 1_000
MAX_OPEN = 4
"""Runs whose history is in memory; the one that was requested longest ago is closed first."""
HEAD_BYTES = TAIL_BYTES = 64 * 1024
"""More than the first evaluation, and than the lines since the last one where a run evaluates every 20 steps."""
LONG_TAIL_BYTES = 8 * 1024 * 1024
"""In which the newest evaluation is looked for when it is not among the last lines."""

Fields = dict[str, Any]


class NoSuchRunError(LookupError):
    """A name that is none of the folder's runs."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A run in its first and last lines."""

    settings: Fields
    first: Fields  # line
    last: Fields  # line
    last_step: Fields
    base_evaluation: Fields
    last_evaluation: Fields
    has_traces: bool
    written_at: float  # when its metrics or its journal last grew, seconds since the epoch


class Catalog:
    """All runs below a folder.

    `live` is the one that this dashboard was started for, with its configuration; `chosen`, without a live one, the one
    that is shown when none is named. `responses` is the folder below which their kept responses are, where another one.
    """

    def __init__(
        self,
        root: Path,
        *,
        live: str = "",
        live_settings: Fields | None = None,
        chosen: str = "",
        responses: Path | None = None,
    ) -> None:
        self.root = root
        self._responses = responses or root
        self.live = live
        self._chosen = chosen
        self._live_settings = live_settings
        self._open: OrderedDict[str, RunHistory] = OrderedDict()
        self._outlines: dict[str, tuple[Any, Outline]] = {}

    def names(self) -> list[str]:
        """In alphabetical order, the live one always among them."""
        found = dict.fromkeys(self._found())
        if self.live:
            found.setdefault(self.live)
        return sorted(found)

    def default(self) -> str:
        """The live run, else the chosen one, else the one that was written to last."""
        if self.live or self._chosen:
            return self.live or self._chosen
        newest = max(self._found(), key=lambda name: written_at(self.root / name), default=None)
        if newest is None:
            raise NoSuchRunError(
                f"{self.root} holds no run so far; expected a folder with a config.toml or metrics.jsonl"
            )
        return newest

    async def run(self, name: str | None = None) -> RunHistory:
        """A run, read as far as it has come. Raises `NoSuchRunError`."""
        history = self._opened(self.default() if name is None else name)
        await history.refresh()
        return history

    def outline(self, name: str) -> Outline:
        """A few reads, or none while the run's files have not changed."""
        path = self.root / name
        state = (written_at(path), size_of(RunPaths(path).metrics))
        known = self._outlines.get(name)
        if known is None or known[0] != state:
            settings = self._live_settings if name == self.live else None
            known = self._outlines[name] = (state, outline_of(path, settings))
        return known[1]

    def _opened(self, name: str) -> RunHistory:
        if name not in self._open:
            # A name is looked up among those that were found, never joined to a path as it comes.
            if name != self.live and name not in self._found():
                raise NoSuchRunError(f"there is no run {name!r}; expected one of /api/v1/runs")
            settings = self._live_settings if name == self.live else None
            responses = RunPaths(self._responses / name).responses
            self._open[name] = RunHistory(self.root / name, name=name, settings=settings, responses=responses)
            for other in [one for one in self._open if one not in (name, self.live)][: -(MAX_OPEN - 1) or None]:
                del self._open[other]
        self._open.move_to_end(name)
        return self._open[name]

    def _found(self) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in list(_runs_in(self.root, depth=2))[:MAX_RUNS]]


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    run = RunPaths(path)
    return any(mark.is_file() for mark in (run.config, run.metrics, run.journal))


def written_at(path: Path) -> float:
    """When a run's lines last grew; its configuration's age while there are none."""
    run = RunPaths(path)
    return max(modified_at(run.metrics), modified_at(run.journal)) or modified_at(run.config)


def size_of(path: Path) -> int:
    """In bytes; 0 for a file that is missing."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def outline_of(path: Path, settings: Fields | None = None) -> Outline:
    """A run, from the two ends of its metrics."""
    run = RunPaths(path)
    head, tail = read_objects(run.metrics, first_bytes=HEAD_BYTES), read_objects(run.metrics, last_bytes=TAIL_BYTES)
    base = next((line for line in [*head, *tail] if line.get("kind") == EVALUATION and line.get("step") == 0), {})
    return Outline(
        settings=settings_of(path) if settings is None else settings,
        first=head[0] if head else {},
        last=tail[-1] if tail else {},
        last_step=next((line for line in reversed(tail) if line.get("kind") == STEP), {}),
        base_evaluation=base,
        last_evaluation=_last_evaluation(run, tail),
        has_traces=bool(trace_files(run.traces)),
        written_at=written_at(path),
    )


def _last_evaluation(run: RunPaths, tail: Sequence[Fields]) -> Fields:
    found = _evaluations(tail) or _evaluations(read_objects(run.metrics, last_bytes=LONG_TAIL_BYTES))
    return max(found, key=lambda line: line["step"], default={})


def _evaluations(lines: Sequence[Fields]) -> list[Fields]:
    return [line for line in lines if line.get("kind") == EVALUATION and is_metric_line(line)]


def _runs_in(folder: Path, *, depth: int) -> Iterator[Path]:
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return
    for child in children:
        if is_run(child):
            yield child
        elif depth > 1:
            yield from _runs_in(child, depth=depth - 1)
