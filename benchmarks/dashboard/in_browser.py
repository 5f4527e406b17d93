"""What the page costs its reader: time to the first paint and to the whole view, memory of the browser's page.

    python -m benchmarks.dashboard.in_browser [--json]

Opens each view in Chromium on the run of cost.py (10,000 rollouts in flight, 1,000 steps of history, a step
of 64 rows each second) and leaves it open for ten seconds. Goals: first paint within a second, below 200 MB.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.dashboard.cost import SyntheticRun, dashboard, going_on

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VIEWS = ("overview", "windows", "rollouts", "critic", "ledger", "services", "compare", "steer")
OPEN_SECONDS = 10.0
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def measure(browser: Browser, url: str, view: str) -> dict[str, float]:
    """One view in a window of its own."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(f"{url}/#/{view}")
    page.locator("main .view > *").first.wait_for(state="attached")
    whole = time.perf_counter() - began
    page.wait_for_timeout(1000 * OPEN_SECONDS)
    found = {
        "first_paint_ms": float(page.evaluate(FIRST_PAINT)),
        "whole_view_ms": 1000 * whole,
        "script_memory_mb": float(page.evaluate("performance.memory.usedJSHeapSize")) / 2**20,
        "page_memory_mb": max(renderers()),
    }
    context.close()
    return found


def renderers() -> list[float]:
    """Memory (PSS, in megabytes) of each process that shows a page."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (path / "cmdline").read_bytes():
                size = re.search(r"^Pss:\s+(\d+) kB", (path / "smaps_rollup").read_text(), re.MULTILINE)
                found.append(int(size[1]) / 1024 if size else 0.0)
        except OSError:
            continue
    return found


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """For a person."""
    lines = [f"{'view':<10} {'first paint':>12} {'whole view':>12} {'scripts':>10} {'page':>10}"]
    for view, of in found.items():
        lines.append(
            f"{view:<10} {of['first_paint_ms']:>9.0f} ms {of['whole_view_ms']:>9.0f} ms "
            f"{of['script_memory_mb']:>7.1f} MB {of['page_memory_mb']:>7.0f} MB"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print numbers instead of a table")
    arguments = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("no browser: install chromium")
    folder = Path(tempfile.mkdtemp(prefix="tppo-dashboard-"))
    found: dict[str, Any] = {}
    try:
        run = SyntheticRun(folder / "synthetic")
        run.write()
        with dashboard(run.path) as (url, _), going_on(run), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            for view in ("overview", *VIEWS):  # the first opening warms the browser, and reads the history
                found[view] = measure(browser, url, view)
            browser.close()
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found, indent=1) if arguments.json else table(found))


if __name__ == "__main__":
    main()
