"""The page without a run: folders that finished runs have left, and text that means harm."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import VIEWS, a_browsed_folder, a_reader
from tests.dashboard.run_folders import complete_run, event, last_window, requested, score, token, trained

HOSTILE = '<img src=x onerror="window.harmed=1"><script>window.harmed=2</script>\u202eabc'


@pytest.mark.parametrize("view", VIEWS)
def test_a_finished_run_is_shown_from_its_folder_alone(browser: Browser, tmp_path: Path, view: str) -> None:
    complete_run(tmp_path / "quick")
    complete_run(tmp_path / "other")

    with a_browsed_folder(tmp_path) as url, a_reader(browser, url) as reader:
        reader.open(view, run="quick")

        expect(reader.page.locator("#state")).to_have_text("finished")
        assert "cannot be shown" not in reader.page.locator("main").inner_text()
        assert [one for one in reader.complaints if "404" not in one] == []


def test_the_runs_of_a_folder_are_compared_in_one_chart(browser: Browser, tmp_path: Path) -> None:
    complete_run(tmp_path / "quick")
    complete_run(tmp_path / "other")

    with a_browsed_folder(tmp_path) as url, a_reader(browser, url) as reader:
        reader.open("compare")
        for axis in ("step", "time", "tokens", "decode"):
            reader.page.get_by_label("Over").select_option(axis)
            expect(reader.page.locator(".u-legend")).to_contain_text("quick")
            expect(reader.page.locator(".u-legend")).to_contain_text("other")
        assert reader.complaints == []


def test_html_in_a_runs_text_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    run = complete_run(tmp_path / "quick")
    (run.path / "train.jsonl").unlink()
    run.prompts(HOSTILE)
    (run.path / "model" / "tokenizer.json").unlink()
    (run.path / "model").rmdir()
    run.tokenizer(HOSTILE, "a", "b", "end")
    run.journal(
        requested(HOSTILE, time=20.0),
        last_window(HOSTILE, time=21.0, tokens=1),
        score(HOSTILE, None, time=22.0, error=HOSTILE, function=HOSTILE),
        trained(3, (HOSTILE, 0)),
        {"kind": "parked", "rollout": "0-0-1", "window": 0, "cause": HOSTILE, "time": 1_800_000_030.0},
        event(HOSTILE, step=3),
    )
    run.trace(3, token(HOSTILE, 0, 0))
    run.log("learner", HOSTILE)

    with a_browsed_folder(tmp_path) as url, a_reader(browser, url) as reader:
        for view in VIEWS:
            reader.open(view, run="quick")
            reader.page.wait_for_timeout(300)
        reader.open("rollouts/0-0-0", run="quick")
        expect(reader.page.locator(".tokens[role=application]")).to_contain_text(
            "<script>window.harmed=2</script>\\u202eabc"
        )

        assert reader.page.evaluate("window.harmed") is None
        assert reader.page.locator("main img, main script").count() == 0
