"""Each view of the page, on a live run of the quick start."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.browsing import DESK, PHONE, VIEWS, Theme, a_reader
from tests.browser.conftest import LiveRun
from tests.support.waiting import wait_until

SHOWN = {
    "overview": "Accuracy on the evaluation set",
    "windows": "responses ended",
    "rollouts": "generation-0",
    "critic": "Mean return where the value was about the same",
    "ledger": "Every window is accounted for.",
    "services": "KL to the learner under the same weights",
    "compare": "accuracy before",
    "steer": "learning rate of the policy",
}


@pytest.mark.parametrize(("theme", "size"), [("light", DESK), ("dark", DESK), ("light", PHONE)])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_the_run(browser: Browser, live: LiveRun, view: str, theme: Theme, size: tuple[int, int]) -> None:
    _, url, _ = live
    with a_reader(browser, url, theme=theme, size=size) as reader:
        reader.open(view)
        expect(reader.page.locator("main")).to_contain_text(SHOWN[view])
        expect(reader.page.locator("#state")).to_have_text("running")

        assert reader.faults() == []
        assert reader.broken_words() == []
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert reader.complaints == []


def test_a_generator_s_card_says_what_it_does(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("services")
        card = reader.page.locator("section.card", has=reader.page.get_by_role("heading", name="generation-0"))
        for words in (
            "policy version",
            "leases held",
            "KV cache in use",
            "prefill for each token sampled",
            "of the prefixes shared with siblings",
            "windows handed over",
            "tokens a second",
            "nats allowed",
            "KL to the learner under the same weights",
        ):
            expect(card).to_contain_text(words)


def test_a_zoomed_chart_stays_zoomed_while_steps_arrive(browser: Browser, live: LiveRun) -> None:
    run, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("overview")
        point = reader.page.get_by_role("slider", name="Point of Policy lag, steps")
        reader.page.get_by_label("From", exact=True).fill("1")
        reader.page.get_by_label("to (steps)").fill("3")
        reader.page.get_by_label("to (steps)").press("Enter")
        expect(point).to_have_attribute("aria-valuemax", "3")
        wanted = run.num_steps_done + 5
        wait_until(
            lambda: int(reader.page.locator("#steps").inner_text().split()[1]),
            f"step {wanted} on the page",
            is_met=lambda step: step >= wanted,
        )

        expect(point).to_have_attribute("aria-valuemax", "3")
        reader.page.get_by_role("button", name="Show all", exact=True).click()
        wait_until(
            lambda: int(point.get_attribute("aria-valuemax") or 0),
            f"step {wanted} in the chart",
            is_met=lambda step: step >= wanted,
        )


def numbers_of(page: Page) -> list[str]:
    return page.locator(".equation b").all_inner_texts()


def test_the_ledgers_numbers_are_updated(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("ledger")
        issued = reader.page.locator(".equation b").first
        before = issued.inner_text()

        expect(issued).not_to_have_text(before)
        total, *parts = (int(text.replace(",", "")) for text in numbers_of(reader.page))

        assert total == sum(parts)


def test_the_windows_keep_up_with_a_run_of_many_steps_a_second(browser: Browser, live: LiveRun) -> None:
    run, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("windows")
        expect(reader.page.locator("#windows-text")).to_contain_text("responses ended")
        reader.page.wait_for_timeout(12_000)  # longer than the stretch that is shown
        step = run.num_steps_done
        scale = reader.page.locator(".legend .scale")

        wait_until(
            lambda: int(scale.evaluate("(scale) => scale.nextSibling.textContent")),
            f"policy version {step} in the picture",
            is_met=lambda newest_version: newest_version >= step,
        )
        assert reader.complaints == []


def test_a_window_is_described_and_opens_its_rollout_by_keyboard(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("windows")
        expect(reader.page.locator("#windows-text")).to_contain_text("responses ended")
        picture = reader.page.locator(".picture canvas")
        picture.focus()
        picture.press("ArrowRight")
        expect(reader.page.locator(".tip")).to_contain_text("policy version (tokens)")
        picture.press("Enter")

        expect(reader.page).to_have_url(re.compile(r"#/rollouts/"))
        expect(reader.page.locator("main")).to_contain_text("policy version (tokens)")
        assert reader.complaints == []


def test_a_window_is_described_and_opens_its_rollout_by_mouse(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("windows")
        expect(reader.page.locator("#windows-text")).to_contain_text("responses ended")
        with reader.page.expect_response(re.compile(r"/api/v1/windows\?.*until=")):  # from then on it stands still
            reader.page.get_by_label("End of the stretch that is shown").press("ArrowLeft")
        expect(reader.page.locator("#windows-text")).to_contain_text("responses ended")
        box = reader.page.locator(".picture canvas").bounding_box()
        assert box is not None
        for pixel in range(int(box["width"])):  # somewhere in the first slot is a window
            reader.page.mouse.move(box["x"] + pixel, box["y"] + 4)
            if reader.page.locator(".tip").is_visible():
                break
        reader.page.mouse.down()
        reader.page.mouse.up()

        expect(reader.page).to_have_url(re.compile(r"#/rollouts/"))


def test_a_trained_rollout_shows_its_tokens(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("rollouts")
        reader.page.get_by_label("State").select_option("retired")
        reader.page.get_by_label("Kind").select_option("false")
        reader.page.locator("td a").first.click()
        tokens = reader.page.locator(".tokens span")
        expect(tokens.first).to_be_attached()
        reader.page.get_by_label("Colour").select_option("value")
        reader.page.locator(".tokens[role=application]").press("ArrowRight")

        assert "rgb" in tokens.first.evaluate("(span) => span.style.background")
        expect(reader.page.locator("main")).to_contain_text("age at choice")
        assert reader.faults() == []
        assert reader.complaints == []


def test_every_control_of_the_page_is_reached_by_tab(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("steer")
        reached = set()
        for _ in range(40):
            reader.page.keyboard.press("Tab")
            reached.add(reader.page.evaluate("document.activeElement.textContent || document.activeElement.id"))

    assert {"Skip to the content", "Dark", "Windows", "Pause", "Resume", "Checkpoint now", "Stop", "Set"} <= reached


def test_the_chosen_theme_is_kept(browser: Browser, live: LiveRun) -> None:
    _, url, _ = live
    with a_reader(browser, url) as reader:
        reader.open("overview")
        reader.page.get_by_role("button", name="Change to the dark theme").click()
        reader.page.reload()

        expect(reader.page.locator("html")).to_have_attribute("data-theme", "dark")
        assert reader.page.get_by_role("button", name="Change to the dark theme").count() == 0
