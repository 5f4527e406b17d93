"""The pictures of the page in docs/images, from live runs of the quick start.

    python -m tests.browser.screenshots [FOLDER]

Each view in both themes, of a T-PPO run under way; and the windows of a PPO run, whose slots wait for the longest.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from tests.browser.browsing import THEMES, VIEWS, Reader, a_browser, a_live_run, a_reader

STEP = 90
"""By then the quick start has learned, and the value model has been shown."""
SETTLE_MILLISECONDS = 4000
NUM_COLOURS = 256
AS_IN_THE_QUICK_START = {
    **{"run.rollouts_per_step": "32", "run.max_response_length": "2048", "run.window_length": "256"},
    **{"evaluation.num_prompts": "512", "evaluation.test_freq": "20", "checkpoint.save_freq": "40"},
    **{"run.total_training_steps": "400", "trace.enabled": "true"},
}


def main() -> None:
    """Make all of them."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    with tempfile.TemporaryDirectory() as runs, a_browser() as browser:
        with a_live_run(Path(runs) / "tppo", **AS_IN_THE_QUICK_START) as (run, url, _):
            run.wait_for_step(STEP)
            for theme in THEMES:
                with a_reader(browser, url, theme=theme) as reader:
                    for view in VIEWS:
                        picture(reader, view, folder / f"{view}-{theme}.png")
                    a_rollout(reader, folder / f"rollout-{theme}.png")
        ppo = {**AS_IN_THE_QUICK_START, "run.algorithm": "ppo", "run.mode": "lockstep", "run.window_length": "2048"}
        with a_live_run(Path(runs) / "ppo", **ppo) as (run, url, _):
            run.wait_for_step(STEP // 3)
            with a_reader(browser, url) as reader:
                picture(reader, "windows", folder / "windows-of-ppo.png")


def picture(reader: Reader, view: str, path: Path) -> None:
    """What a reader sees without scrolling."""
    reader.open(view)
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


if __name__ == "__main__":
    main()
