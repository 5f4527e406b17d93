"""The pictures of the page in docs/images, from live runs of the quick start.

    python -m tests.browser.screenshots [FOLDER]

Each view in both themes, of a T-PPO run under way; the windows of a PPO run, whose slots wait for the longest; and the
comparison of what both runs have left. Some views as a phone shows them.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect

from tests.browser.browsing import (
    DESK,
    PHONE,
    THEMES,
    VIEWS,
    Reader,
    Theme,
    a_browsed_folder,
    a_browser,
    a_live_run,
    a_reader,
)

STEP = 90
"""By then the quick start has learned, and the value model has been shown."""
SETTLE_MILLISECONDS = 4000
NUM_COLOURS = 256
AS_IN_THE_QUICK_START = {
    **{"run.rollouts_per_step": "32", "run.max_response_length": "2048", "run.window_length": "256"},
    **{"evaluation.num_prompts": "512", "evaluation.test_freq": "20", "checkpoint.save_freq": "40"},
    **{"run.total_training_steps": "400", "trace.enabled": "true"},
}
OF_PPO = {"run.algorithm": "ppo", "run.mode": "lockstep", "run.window_length": "2048"}
ON_A_PHONE = ("overview", "rollouts", "services")
LOOKS: tuple[tuple[str, Theme, tuple[int, int]], ...] = (
    *((theme, theme, DESK) for theme in THEMES),
    ("phone", "light", PHONE),
)
"""The end of a picture's name, the theme and the size of the window."""


def main() -> None:
    """Make all of them."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    with tempfile.TemporaryDirectory() as place, a_browser() as browser:
        runs = Path(place)
        with a_live_run(runs / "first", **AS_IN_THE_QUICK_START) as (run, url, _):
            run.wait_for_step(STEP)
            of_a_live_run(browser, url, folder)
        with a_live_run(runs / "second", **{**AS_IN_THE_QUICK_START, **OF_PPO}) as (run, url, _):
            run.wait_for_step(STEP // 3)
            with a_reader(browser, url) as reader:
                picture(reader, "windows", folder / "windows-of-ppo.png")
        compared = runs / "compared"
        compared.mkdir()
        for name, where in (("tppo", "first"), ("ppo", "second")):
            (runs / where / "runs" / "quickstart").rename(compared / name)
        with a_browsed_folder(compared) as url:
            for look, theme, size in LOOKS:
                with a_reader(browser, url, theme=theme, size=size) as reader:
                    picture(reader, "compare", folder / f"compare-{look}.png")


def of_a_live_run(browser: Browser, url: str, folder: Path) -> None:
    """The views of one run."""
    for look, theme, size in LOOKS:
        with a_reader(browser, url, theme=theme, size=size) as reader:
            for view in VIEWS:
                if view != "compare" and (size == DESK or view in ON_A_PHONE):
                    picture(reader, view, folder / f"{view}-{look}.png")
            if size == DESK:
                a_rollout(reader, folder / f"rollout-{look}.png")
                the_histograms(reader, folder / f"histograms-{look}.png")


def picture(reader: Reader, view: str, path: Path) -> None:
    """What a reader sees without scrolling."""
    reader.open(view)
    save(reader, path)


def save(reader: Reader, path: Path) -> None:
    """As it stands, in few colours."""
    reader.page.wait_for_timeout(SETTLE_MILLISECONDS)
    reader.page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(NUM_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def a_rollout(reader: Reader, path: Path) -> None:
    """The one with the most windows."""
    reader.open("rollouts")
    reader.page.get_by_label("State").select_option("retired")
    reader.page.get_by_label("Order").select_option("-windows")
    reader.page.wait_for_timeout(SETTLE_MILLISECONDS)
    name = reader.page.locator("td a").first.inner_text()
    picture(reader, f"rollouts/{name}", path)
    expect(reader.page.locator(".tokens[role=application]")).to_be_visible()


def the_histograms(reader: Reader, path: Path) -> None:
    """Of some steps, under charts that are zoomed to them and smoothed."""
    reader.open("overview")
    reader.page.get_by_label("From", exact=True).fill(str(STEP // 2))
    reader.page.get_by_label("Smoothing").fill("0.8")
    reader.page.get_by_text("Responses that ended, by length and score").scroll_into_view_if_needed()
    save(reader, path)
    reader.page.get_by_label("Smoothing").fill("0")


if __name__ == "__main__":
    main()
