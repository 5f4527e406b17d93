"""/status, /runs, /configuration, /checkpoints, /events, /logs: the run as a whole."""

import asyncio
import os
import re
import time
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.dashboard.api.parameters import Limit, Offset, RunName, page
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api_model import LARGEST, ApiModel, Page
from services.dashboard.history.catalog import Outline
from services.dashboard.live.messages import RunEvent, event_of
from services.dashboard.live.status import RunState, Status, state_after, state_of, status_of
from services.dashboard.live.view import STILL_WRITTEN_SECONDS, Views
from tppo.run_folder.checkpoints import MANIFEST, CheckpointFolder, manifest_of
from tppo.run_folder.ending import ending_of
from tppo.run_folder.paths import RunPaths

LOG_BYTES = 1024 * 1024
LONGEST_LOG_LINE = 4096
SECRET = re.compile(r"((?:#|\b)token=)[^\s&\"']+|(?<=://)[^/@\s]*@")
"""The token in the address that a dashboard logs; user and password in an address such as Redis'."""

NO_RUN = problems(not_found="no such run")


class RunSummary(ApiModel):
    """One run of the folder."""

    name: str
    state: RunState
    algorithm: str
    mode: str
    step: int
    total_training_steps: int
    """0 where the configuration is not known."""
    base_accuracy: float | None
    """Of the model before the first step."""
    accuracy: float | None
    """Of the newest evaluation."""
    started_at: datetime | None
    ended_at: datetime | None
    """Of its last line, unless it is running."""
    has_traces: bool
    is_live: bool
    """The run that this dashboard was started for."""


class CheckpointAnswer(ApiModel):
    """A folder that a resume, or transformers, can start from."""

    step: int
    path: str
    committed_at: datetime
    num_bytes: int
    is_latest: bool
    is_best: bool
    accuracy: float | None
    """Of the one that did best."""


class Configuration(ApiModel):
    """The resolved configuration."""

    run: str
    sections: dict[str, Any]
    """As in the TOML file, every default spelled out; passwords in addresses are left out."""


class LogTail(ApiModel):
    """The end of a process' log."""

    service: str
    lines: list[str]
    services: list[str]
    """Whose logs there are."""


def router(views: Views) -> APIRouter:
    """The addresses."""
    routes = APIRouter(tags=["run"], responses=NO_RUN)

    @routes.get("/status")
    async def status(run: RunName = None) -> Status:
        """The run at this moment, as far as it is known."""
        return status_of(await views.of(run))

    @routes.get("/runs")
    async def runs(offset: Offset = 0, limit: Limit = 100) -> Page[RunSummary]:
        """Every run in the folder, the live one first, then by name."""
        names = sorted(views.catalog.names(), key=lambda name: (name != views.catalog.live, name))
        items = [await _summary(views, name) for name in page(names, offset, limit)]
        return Page[RunSummary](items=items, total=len(names))

    @routes.get("/configuration")
    async def configuration(run: RunName = None) -> Configuration:
        """Every key with its value."""
        history = (await views.of(run)).history
        return Configuration(run=history.name, sections=without_secrets(history.settings))

    _add_records(routes, views)
    return routes


def _add_records(routes: APIRouter, views: Views) -> None:
    """Checkpoints, events and logs."""

    @routes.get("/checkpoints")
    async def checkpoints(run: RunName = None) -> Page[CheckpointAnswer]:
        """Those that are committed and still kept."""
        history = (await views.of(run)).history
        items = await asyncio.to_thread(_checkpoints, CheckpointFolder(history.paths.checkpoints))
        return Page[CheckpointAnswer](items=items, total=len(items))

    @routes.get("/events")
    async def events(
        run: RunName = None, after_id: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0, limit: Limit = 100
    ) -> Page[RunEvent]:
        """What happened behind `after_id`, in order; without it, the newest."""
        journal = (await views.of(run)).history.journal
        found = [event_of(event) for event in journal.events if event["id"] > after_id]
        return Page[RunEvent](items=found[:limit] if after_id else found[-limit:], total=len(found))

    @routes.get("/logs/{service}", responses=problems(not_found="no such run, or no such log"))
    async def logs(service: str, run: RunName = None, lines: Annotated[int, Query(ge=1, le=2000)] = 200) -> LogTail:
        """The last lines of a process' log; tokens and passwords are left out."""
        history = (await views.of(run)).history
        files = log_files(history.paths)
        # A name is looked up among the files that are there, never joined to a path as it comes.
        if service not in files:
            known = ", ".join(files) or "none: nobody has logged into this run's folder"
            raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no log of that name; expected one of {known}")
        try:
            text = await asyncio.to_thread(tail_of, files[service], lines)
        except OSError as error:
            raise ProblemError(HTTPStatus.NOT_FOUND, f"{service}.log cannot be read: {error.strerror}") from None
        return LogTail(service=service, lines=text, services=list(files))


def _checkpoints(folder: CheckpointFolder) -> list[CheckpointAnswer]:
    latest, best = folder.newest_step(), folder.best()
    return [
        CheckpointAnswer(
            step=step,
            path=str(folder.of_step(step)),
            committed_at=datetime.fromtimestamp((folder.of_step(step) / MANIFEST).stat().st_mtime, UTC),
            num_bytes=_num_bytes(manifest_of(folder.of_step(step))),
            is_latest=step == latest,
            is_best=best is not None and best.step == step,
            accuracy=best.accuracy if best is not None and best.step == step else None,
        )
        for step in folder.complete_steps()
    ]


def _num_bytes(manifest: dict[str, Any]) -> int:
    files = manifest.get("files")
    sizes = files.values() if isinstance(files, dict) else []
    return sum(one[0] for one in sizes if isinstance(one, list) and one and isinstance(one[0], int))


def log_files(run: RunPaths) -> dict[str, Path]:
    """By the name of the process; none where the folder is a link, which may lead out of the run."""
    if run.logs.is_symlink():
        return {}
    return {path.stem: path for path in sorted(run.logs.glob("*.log")) if path.is_file() and not path.is_symlink()}


def tail_of(path: Path, num_lines: int) -> list[str]:
    """The last lines of a file, each cut where it is very long. A link that has taken its place, or its folder's, is
    not followed.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    with open(descriptor, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        text = file.read(LOG_BYTES).decode("utf-8", "replace")
    return [str(without_secrets(line[:LONGEST_LOG_LINE])) for line in text.splitlines()[-num_lines:]]


def without_secrets(value: Any) -> Any:
    """The same text, table or list, safe to be shown to those who may look but not steer."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return SECRET.sub(_masked, value) if isinstance(value, str) else value


def _masked(found: re.Match[str]) -> str:
    return f"{found[1]}***" if found[1] else "***@"


async def _summary(views: Views, name: str) -> RunSummary:
    outline = await asyncio.to_thread(views.catalog.outline, name)
    state = await _state(views, name, outline)
    is_live = name == views.catalog.live
    evaluation = (await views.of(name)).history.evaluations.latest if is_live else outline.last_evaluation
    started, last = outline.first.get("time"), outline.last.get("time")
    table = outline.settings.get("run")
    run = table if isinstance(table, dict) else {}
    return RunSummary(
        name=name,
        state=state,
        algorithm=str(run.get("algorithm", "")),
        mode=str(run.get("mode", "")),
        step=_integer(outline.last_step.get("step")),
        total_training_steps=_integer(run.get("total_training_steps")),
        base_accuracy=_number(outline.base_evaluation.get("eval/accuracy")),
        accuracy=_number(evaluation.get("eval/accuracy")),
        started_at=_moment(started),
        ended_at=None if state in ("starting", "running") else _moment(last),
        has_traces=outline.has_traces,
        is_live=is_live,
    )


async def _state(views: Views, name: str, outline: Outline) -> RunState:
    """The live run's as in /status; of another, from its files."""
    if name == views.catalog.live:
        return state_of(await views.of(name))
    run = outline.settings.get("run")
    total = _integer(run.get("total_training_steps")) if isinstance(run, dict) else 0
    if 0 < total <= _integer(outline.last_step.get("step")):
        return "finished"
    if ending := await asyncio.to_thread(ending_of, RunPaths(views.catalog.root / name)):
        return state_after(ending)
    is_written = abs(time.time() - outline.written_at) <= STILL_WRITTEN_SECONDS
    return "running" if is_written else "stopped"


def _integer(value: Any) -> int:
    return value if isinstance(value, int) and abs(value) <= LARGEST else 0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, float) or (isinstance(value, int) and abs(value) <= LARGEST) else None


def _moment(value: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else None
    except (OverflowError, ValueError, OSError):  # a year that the calendar does not have
        return None
