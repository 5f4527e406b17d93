"""What the open page shows of a learner that is killed."""

import time

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import a_live_run, a_reader

pytestmark = pytest.mark.timeout(400)


def test_a_killed_learner_is_shown_within_five_seconds_and_its_return(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    with (
        a_live_run(folder, **{"run.total_training_steps": "100000"}) as (run, url, _),
        a_reader(browser, url) as reader,
    ):
        reader.open("overview")
        expect(reader.page.locator("#state")).to_have_text("running")
        began = time.monotonic()
        killed: list[int] = []
        for _ in range(3):  # the fourth starts so late that the silence is long enough
            killed.append(run.kill("learner", other_than=killed))
        expect(reader.page.locator("#state")).to_have_text("learner gone")
        seconds = time.monotonic() - began

        expect(reader.page.locator("#state")).to_have_text("running")
        step = max(line["step"] for line in run.lines("step"))
        run.wait_for_step(step + 1)
        assert reader.complaints == []

    assert seconds <= 5
