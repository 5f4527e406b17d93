"""The learner's side of a tracker, with processes that do all that processes may do."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from learner.reporting.trackers.feed import TrackerDeadlines, TrackerFeed
from learner.reporting.trackers.trackers import Trackers
from tests.learner.reporting.tracker_processes import ANSWER, a_start, a_step, program
from tests.support.waiting import DEADLINE_SECONDS, until

FAST_RESTARTS = TrackerDeadlines(
    start=DEADLINE_SECONDS, line=DEADLINE_SECONDS, finish=DEADLINE_SECONDS, first_delay=0.01, longest_delay=0.01
)
DIES_OVER_2 = ANSWER.replace("    print", "    if '\"step\": 2' in line: sys.exit(1)\n    print")
HANGS_OVER_2 = ANSWER.replace("    print", "    if '\"step\": 2' in line: import time; time.sleep(1000)\n    print")
FAILS_OVER_2 = ANSWER.replace('"error": ""', '"error": "no space" if \'"step": 2\' in line else ""')
NEVER_ENDS = ANSWER + "import time; time.sleep(1000)\n"
SAYS_TOO_MUCH = "import sys\nfor line in sys.stdin: print('x' * 10**6, flush=True)\n"
REFUSES = 'print(\'{"error": "no key"}\', flush=True)\ninput()\n'


def a_feed(tmp_path: Path, text: str, **settings: Any) -> TrackerFeed:
    return TrackerFeed("tracker", a_start(tmp_path), command=program(text), **{"deadlines": FAST_RESTARTS, **settings})


@asynccontextmanager
async def served(feed: TrackerFeed, *, end_seconds: float = DEADLINE_SECONDS) -> AsyncIterator[None]:
    async with Trackers([feed]).running(end_seconds=end_seconds):
        yield


def counts(feed: TrackerFeed) -> tuple[int, int, int, int]:
    """Written, failed, dropped, waiting."""
    status = feed.status()
    return status["num_written"], status["num_failed"], status["num_dropped"], status["num_waiting"]


async def test_every_line_is_written_before_the_learner_ends(tmp_path: Path) -> None:
    feed = a_feed(tmp_path, ANSWER)

    async with served(feed):
        for step in range(100):
            feed.take(a_step(step, nothing=None, not_finite=float("nan")))

    assert counts(feed) == (100, 0, 0, 0)
    assert feed.last_error == ""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (DIES_OVER_2, "tracker: its process has ended"),
        (HANGS_OVER_2, "tracker: no reply before the deadline"),
        (FAILS_OVER_2, "tracker: no space"),
    ],
)
async def test_a_line_that_fails_is_counted_logged_and_followed_by_the_next(
    tmp_path: Path, text: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    feed = a_feed(tmp_path, text, deadlines=replace(FAST_RESTARTS, line=1.0))

    async with served(feed):
        feed.take(a_step(1))
        feed.take(a_step(2))
        await until(lambda: feed.last_error, cause, is_met=lambda error: error == cause)
        feed.take(a_step(3))

    assert counts(feed) == (2, 1, 0, 0)
    assert feed.last_error == ""
    assert f"{cause}; training is not held up" in caplog.text


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (program(REFUSES), "tracker: no key"),
        (program("raise SystemExit(1)"), "tracker: "),
        (program(SAYS_TOO_MUCH), "tracker: "),
        (("/nowhere/to/be/found",), "tracker: [Errno 2]"),
    ],
)
async def test_a_process_that_never_starts_loses_no_line_until_too_many_wait(
    tmp_path: Path, command: Sequence[str], cause: str
) -> None:
    feed = TrackerFeed("tracker", a_start(tmp_path), command=command, deadlines=FAST_RESTARTS, max_waiting=3)

    async with served(feed, end_seconds=0.2):
        await until(lambda: feed.last_error, "an error of the tracker")
        assert feed.last_error.startswith(cause)
        for step in range(5):
            feed.take(a_step(step))

    assert counts(feed) == (0, 0, 2, 3)
    assert feed.last_error == "tracker: 3 lines were not written when the learner ended"


async def test_a_process_that_does_not_end_is_killed_at_the_deadline(tmp_path: Path) -> None:
    feed = a_feed(tmp_path, NEVER_ENDS, deadlines=replace(FAST_RESTARTS, finish=0.3))

    async with asyncio.timeout(DEADLINE_SECONDS), served(feed):
        feed.take(a_step(1))

    assert counts(feed) == (1, 0, 0, 0)


async def test_an_error_in_the_training_ends_the_process_too(tmp_path: Path) -> None:
    feed = a_feed(tmp_path, ANSWER)

    async def fail() -> None:
        async with served(feed):
            feed.take(a_step(1))
            await until(lambda: feed.status()["num_written"] == 1, "the line")
            raise RuntimeError("training")

    with pytest.raises(RuntimeError, match="training"):
        await fail()
    assert "tracker" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_the_status_has_each_tracker_and_the_first_error(tmp_path: Path) -> None:
    feed = TrackerFeed("tracker", a_start(tmp_path), command=(sys.executable,), max_waiting=0)
    trackers = Trackers([feed])

    trackers.take(a_step(1))

    status = trackers.with_status({"step": 1, "last_error": ""})
    assert status["trackers"]["tracker"]["num_dropped"] == 1
    assert status["last_error"] == "tracker: 0 lines wait; later ones are dropped"
    assert trackers.with_status({"last_error": "disk full"})["last_error"] == "disk full"
