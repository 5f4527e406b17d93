"""What the open page shows when the run is steered, and when the dashboard dies."""

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import a_reader
from tests.browser.conftest import LiveRun


def test_a_command_needs_the_token_and_pauses_the_run(browser: Browser, live: LiveRun) -> None:
    _, url, token = live
    with a_reader(browser, url) as reader:
        reader.open("steer")
        reader.page.get_by_role("button", name="Pause").click()
        expect(reader.page.locator("main")).to_contain_text("Steering needs the token")

        reader.page.get_by_label("Token that steers").fill(token)
        reader.page.get_by_role("button", name="Pause").click()
        expect(reader.page.locator("#state")).to_have_text("paused")
        reader.page.get_by_role("button", name="Resume").click()
        expect(reader.page.locator("#state")).to_have_text("running")
        assert "Steering needs the token" not in reader.page.locator("main").inner_text()


def test_the_printed_address_carries_the_token(browser: Browser, live: LiveRun) -> None:
    _, url, token = live
    with a_reader(browser, url) as reader:
        reader.page.goto(f"{url}/#token={token}")
        reader.open("steer")
        reader.page.get_by_role("button", name="Checkpoint now").click()

        expect(reader.page.locator("main")).to_contain_text("done")
        assert token not in reader.page.url
        assert reader.complaints == []


@pytest.mark.parametrize("view", ["overview", "services"])
def test_the_open_page_reconnects_to_a_restarted_dashboard(browser: Browser, live: LiveRun, view: str) -> None:
    run, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open(view)
        reader.page.context.set_offline(True)  # else a quick restart is over before the page has noticed
        run.kill("dashboard")
        expect(reader.page.locator("#banner")).to_contain_text("The dashboard does not answer")
        reader.page.context.set_offline(False)
        expect(reader.page.locator("#banner")).to_be_empty()

        before = reader.page.locator("#steps").inner_text()
        expect(reader.page.locator("#steps")).not_to_have_text(before)
        assert [one for one in reader.complaints if "Failed to load resource" not in one] == []
