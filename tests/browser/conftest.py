"""A browser and a live run for the tests of a module.

No longer than that: while playwright's synchronous interface is open, no asynchronous test can run in this thread.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.browsing import a_browser, a_live_run
from tests.support.quickstart_run import NEVER_ENDS, Run

LiveRun = tuple[Run, str, str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def live(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    """A run that goes on until the module's last test; without a browser it is not started."""
    folder: Path = tmp_path_factory.mktemp("live")
    with a_live_run(folder, **NEVER_ENDS, **{"trace.enabled": "true"}) as started:
        yield started
