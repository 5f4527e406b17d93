"""The charts: zoom, chosen points, smoothing, scales, exports, and what an empty one says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.browsing import PHONE, Reader, a_browsed_folder, a_reader
from tests.dashboard.run_folders import (
    RunFolderBuilder,
    complete_run,
    evaluation_line,
    last_window,
    requested,
    score,
    step_line,
    trained,
)

NUM_STEPS = 40
REWARD = "Reward of the responses that finished"
CAUSE = "the reward function gave no score in 3 attempts: its server does not answer within the deadline of 30 seconds"


def long_run(path: Path) -> RunFolderBuilder:
    """Forty steps of two responses each, the first without a reward; three evaluations; no value model."""
    run = RunFolderBuilder(path, total_training_steps=NUM_STEPS)
    run.metrics(*(evaluation_line(step, step / 100) for step in (0, 20, 40)))
    for step in range(1, NUM_STEPS + 1):
        reward = {"reward__mean": step / 10, "reward__std": step / 20} if step > 1 else {"reward__mean": None}
        run.metrics(step_line(step, policy_lag__mean=0.0, response_length__p50=10 * step, **reward))
        for name, tokens, value in ((f"{step}-a", 8 * step, 1.0), (f"{step}-b", 3, 0.0)):
            run.journal(requested(name), last_window(name, tokens=tokens), score(name, value), trained(step, (name, 0)))
    return run


@pytest.fixture(scope="module")
def url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    long_run(folder / "long")
    short = complete_run(folder / "short")
    short.journal({"kind": "parked", "rollout": "0-0-1", "window": 0, "cause": CAUSE, "time": 1_800_000_020.0})
    with a_browsed_folder(folder) as address:
        yield address


@pytest.fixture
def overview(browser: Browser, url: str) -> Iterator[Reader]:
    with a_reader(browser, url) as reader:
        reader.open("overview", run="long")
        expect(reader.page.locator(".u-over").first).to_be_visible()
        yield reader
        assert [one for one in reader.complaints if "404" not in one] == []


def chart(page: Page, title: str) -> Locator:
    return page.locator("figure.lines").filter(has=page.get_by_text(title, exact=True))


def point(page: Page, title: str = REWARD) -> Locator:
    return page.get_by_role("slider", name=f"Point of {title}")


def legend(page: Page, title: str = REWARD) -> Locator:
    return chart(page, title).locator(".u-legend")


def drag(page: Page, over: Locator, *, start: float, end: float) -> None:
    """From one share of the chart's width to another."""
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + start * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()


def test_a_drag_zooms_every_chart_and_a_double_click_shows_all_again(overview: Reader) -> None:
    page = overview.page
    other = point(page, "Response length, tokens")
    drag(page, point(page), start=0.251, end=0.501)

    expect(page.get_by_label("From", exact=True)).to_have_value("11")
    expect(page.get_by_label("to (steps)")).to_have_value("20")
    low, high = (float(other.get_attribute(f"aria-value{end}") or "nan") for end in ("min", "max"))
    assert 10 < low < 11
    assert 20 < high < 21
    assert overview.faults() == []

    point(page).dblclick()
    expect(other).to_have_attribute("aria-valuemax", "40")
    expect(page.get_by_label("From", exact=True)).to_have_value("")


def test_the_legend_shows_the_values_of_the_chosen_point(overview: Reader) -> None:
    page = overview.page
    expect(legend(page)).to_contain_text("step40")
    point(page).press("Home")
    point(page).press("ArrowRight")

    expect(legend(page)).to_contain_text("step2")
    expect(legend(page)).to_contain_text("mean0.2")
    expect(legend(page, "Response length, tokens")).to_contain_text("median20")
    expect(point(page)).to_have_attribute("aria-valuetext", "step 2: mean 0.2")

    point(page).press("Escape")
    expect(legend(page)).to_contain_text("mean4")


def test_the_legend_says_of_an_older_value_which_step_it_is_of(browser: Browser, url: str) -> None:
    with a_reader(browser, url) as reader:
        reader.open("compare")
        shown = reader.page.locator(".u-legend")

        expect(shown).to_contain_text("step40")
        expect(shown).to_contain_text("long0.4")
        expect(shown).to_contain_text("short0.75 (step 3)")


def test_a_chart_without_numbers_says_why(overview: Reader) -> None:
    empty = chart(overview.page, "Explained variance of the value model")

    expect(empty).to_contain_text("No number so far. It is measured on the last windows of responses that ended")
    assert empty.locator("canvas").count() == 0
    expect(empty.get_by_role("button", name="CSV")).to_be_disabled()


def test_smoothing_shows_the_average_beside_the_value(overview: Reader) -> None:
    page = overview.page
    overview.page.evaluate("localStorage.setItem('tppo-smoothing', '0.5')")
    page.reload()
    point(page).press("Home")
    for _ in range(2):
        point(page).press("ArrowRight")

    # Rewards of steps 2 and 3 are 0.2 and 0.3: (0.5 * 0.5 * 0.2 + 0.5 * 0.3) / 0.75.
    expect(legend(page)).to_contain_text("mean0.3 (smoothed 0.2667)")
    expect(page.get_by_label("Smoothing")).to_have_value("0.5")
    page.get_by_label("Smoothing").press("Home")
    expect(legend(page)).not_to_contain_text("smoothed")


def test_a_chart_has_a_log_scale_where_all_its_values_are_positive(overview: Reader) -> None:
    button = chart(overview.page, "Response length, tokens").get_by_role("button", name="Log")

    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(chart(overview.page, "Policy lag, steps").get_by_role("button", name="Log")).to_be_disabled()


def test_a_hidden_line_stays_hidden_when_the_chart_is_drawn_again(overview: Reader) -> None:
    page = overview.page
    row = legend(page).locator("tr").nth(1)
    row.locator("th").click()
    page.get_by_role("button", name="Change to the dark theme").click()

    expect(legend(page).locator("tr").nth(1)).to_have_class("u-series u-off")


def test_the_series_of_a_chart_are_saved_as_csv(overview: Reader) -> None:
    with overview.page.expect_download() as download:
        chart(overview.page, "Accuracy on the evaluation set").get_by_role("button", name="CSV").click()

    assert download.value.suggested_filename == "accuracy-on-the-evaluation-set.csv"
    assert Path(download.value.path()).read_text().splitlines() == [
        "step,eval/accuracy,less the spread,plus the spread",
        "0,0,,",
        "20,0.2,,",
        "40,0.4,,",
    ]


def test_all_metrics_of_the_run_are_saved_as_csv(overview: Reader) -> None:
    with overview.page.expect_download() as download:
        overview.page.get_by_role("link", name="steps", exact=True).click()

    assert download.value.suggested_filename == "long-steps.csv"
    assert len(Path(download.value.path()).read_text().splitlines()) == 1 + NUM_STEPS


def test_a_point_leads_to_the_rollouts_of_its_step(overview: Reader) -> None:
    page = overview.page
    point(page).press("ArrowLeft")
    point(page).press("Enter")

    expect(page.get_by_label("Step", exact=True)).to_have_value("39")
    expect(page.locator("td a")).to_have_text(["39-a", "39-b"])


def test_a_click_chooses_a_point_and_its_link_stays(overview: Reader) -> None:
    page = overview.page
    over = point(page)
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 3, box["y"] + 20)  # step 1, near the left edge
    page.mouse.move(0, 0)

    chart(page, REWARD).get_by_role("link", name="Rollouts of step 1").click()
    expect(page.locator("td a")).to_have_text(["1-a", "1-b"])


def test_lengths_and_scores_are_counted_for_the_steps_that_are_shown(overview: Reader) -> None:
    page = overview.page
    card = page.locator("section").filter(has_text="Responses that ended, by length and score")
    expect(card).to_contain_text("Steps 1 to 40: 80 responses, 80 with a score.")
    expect(card).to_contain_text("Most in 3 to")
    page.get_by_label("From", exact=True).fill("31")
    page.get_by_label("From", exact=True).press("Enter")
    expect(card).to_contain_text("Steps 31 to 40: 20 responses, 20 with a score.")

    point(page).press("End")
    expect(card).to_contain_text("Step 40: 2 responses, 2 with a score.")
    page.get_by_label("Responses of").select_option("evaluation")
    expect(card).to_contain_text("No response of an evaluation ended in these steps")


def test_the_configurations_of_compared_runs_show_only_what_differs(browser: Browser, url: str) -> None:
    with a_reader(browser, url) as reader:
        reader.open("compare")
        table = reader.page.get_by_role("region", name="Configurations: the keys that differ")

        expect(table.locator("thead th")).to_have_text(["key", "long", "short"])
        row = table.locator("tr").filter(has_text="run.total_training_steps")
        expect(row.locator("td")).to_have_text(["run.total_training_steps", "40", "3"])
        assert "run.algorithm" not in table.inner_text()
        assert reader.faults() == []


@pytest.mark.parametrize("view", ["ledger", "rollouts/0-0-1", "services", "compare"])
def test_no_table_breaks_a_word_on_a_phone(browser: Browser, url: str, view: str) -> None:
    with a_reader(browser, url, size=PHONE) as reader:
        reader.open(view, run="short")
        expect(reader.page.locator("td, dd").first).to_be_visible()

        assert reader.broken_words() == []
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
