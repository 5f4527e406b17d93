"""One browser and one live run for all tests of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.browsing import a_browser, a_live_run
from tests.end_to_end.test_real_processes import Run

LiveRun = tuple[Run, str, str]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with a_browser() as opened:
        yield opened


@pytest.fixture(scope="package")
def live(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    """A run that goes on until the last test; the browser is asked for first, since without one nothing is started."""
    folder: Path = tmp_path_factory.mktemp("live")
    with a_live_run(folder, **{"run.total_training_steps": "100000", "trace.enabled": "true"}) as started:
        yield started
