"""All trackers of a run, as `[trackers]` names them."""

import asyncio
import importlib.util
import netrc
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from learner.reporting.trackers.contract import TrackerStart
from learner.reporting.trackers.feed import TrackerFeed
from tppo.config import ConfigError
from tppo.config.schema import TrackersSection
from tppo.process.cancellation import cancel_all

END_SECONDS = 20.0  # for the last lines and for uploads, when the learner ends
KEY_VARIABLE = "WANDB_API_KEY"
WANDB_HOST = "api.wandb.ai"


def check(section: TrackersSection) -> None:
    """Raises `ConfigError` when the section names a tracker that cannot work here."""
    for key, package in _packages(section):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{key}: the package {package} is not installed; expected pip install 'tppo[trackers]'")
    if section.wandb == "online" and not (os.environ.get(KEY_VARIABLE) or _has_netrc_entry()):
        raise ConfigError(
            f"trackers.wandb = 'online': no key of W&B; expected the environment variable {KEY_VARIABLE}, "
            "or what `wandb login` writes"
        )


def _packages(section: TrackersSection) -> Iterator[tuple[str, str]]:
    """(key and value, package)."""
    if section.tensorboard:
        yield "trackers.tensorboard = true", "tensorboard"
    if section.wandb != "off":
        yield f"trackers.wandb = {section.wandb!r}", "wandb"


def _has_netrc_entry() -> bool:
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def feeds(section: TrackersSection, start: TrackerStart) -> list[TrackerFeed]:
    """One for each tracker of the section."""
    start = replace(start, project=section.wandb_project, mode=section.wandb)
    return [TrackerFeed(package, start) for _, package in _packages(section)]


class Trackers:
    """Every line goes to each of them."""

    def __init__(self, feeds: Sequence[TrackerFeed] = ()) -> None:
        self._feeds = feeds

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl was written; returns at once."""
        for feed in self._feeds:
            feed.take(line)

    def with_status(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """The heartbeat's status, with theirs."""
        errors = [feed.last_error for feed in self._feeds if feed.last_error]
        error = status.get("last_error") or next(iter(errors), "")
        return {**status, "last_error": error, "trackers": {feed.name: feed.status() for feed in self._feeds}}

    @asynccontextmanager
    async def running(self, *, end_seconds: float = END_SECONDS) -> AsyncIterator[None]:
        """Their loops; at the end they have `end_seconds` for the lines that wait."""
        # No task group: a tracker that fails must not end the training.
        loops = [asyncio.create_task(feed.serve(), name=feed.name) for feed in self._feeds]
        try:
            yield
            for feed in self._feeds:
                feed.close()
            if loops:
                await asyncio.wait(loops, timeout=end_seconds)
        finally:
            await cancel_all(loops)
            for feed in self._feeds:
                feed.note_unwritten()
