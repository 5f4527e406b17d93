"""What the open page says when a run ends, and its dashboard with it."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.browsing import a_live_run, a_reader


def test_the_open_page_says_that_the_run_has_ended(browser: Browser, tmp_path: Path) -> None:
    with (
        a_live_run(tmp_path, **{"run.total_training_steps": "40"}) as (run, url, _),
        a_reader(browser, url) as reader,
    ):
        reader.open("overview")
        run.end()

        expect(reader.page.locator("#banner")).to_contain_text("The run has ended")
        banner = reader.page.locator("#banner").inner_text()

    assert "tppo dashboard runs/" in banner
    assert "trying again" not in banner.lower()
