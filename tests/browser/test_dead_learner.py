"""What the open page shows of a learner that is killed."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from services.dashboard.live.source import LOOK_SECONDS
from services.dashboard.live.stream import STATUS_SECONDS
from tests.browser.browsing import a_live_run, a_reader
from tests.support.quickstart_run import NEVER_ENDS
from tppo.process.presence import GONE_AFTER_SECONDS

NUM_KILLS = 4
"""Their back-offs, 0.5 s + 1 s + 2 s + 4 s, are longer than it takes to show that the learner is gone."""


def test_a_killed_learner_is_shown_and_so_is_its_restart(browser: Browser, tmp_path: Path) -> None:
    with a_live_run(tmp_path, **NEVER_ENDS) as (run, url, _), a_reader(browser, url) as reader:
        reader.open("overview")
        expect(reader.page.locator("#state")).to_have_text("running")
        killed: list[int] = []
        for _ in range(NUM_KILLS):
            killed.append(run.kill("learner", other_than=killed))
        expect(reader.page.locator("#state")).to_have_text("learner gone")

        expect(reader.page.locator("#state")).to_have_text("running")
        run.wait_for_step(run.num_steps_done + 1)
        assert reader.complaints == []


def test_a_missing_heartbeat_is_shown_within_five_seconds() -> None:
    assert GONE_AFTER_SECONDS + LOOK_SECONDS + STATUS_SECONDS <= 5
