"""A real browser on a real dashboard: the one of a live run, and the one of a folder of runs."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect, sync_playwright

from tests.support.processes import TPPO, end_now
from tests.support.quickstart_run import Run
from tests.support.waiting import DEADLINE_SECONDS

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
VIEWS = ("overview", "windows", "rollouts", "critic", "ledger", "services", "compare", "steer")
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
DESK, PHONE = (1400, 900), (390, 844)
DEADLINE_MILLISECONDS = DEADLINE_SECONDS * 1000
expect.set_options(timeout=DEADLINE_MILLISECONDS)
SERIOUS = {"serious", "critical"}
BROKEN_WORDS = """() => [...document.querySelectorAll("td, th, dt, dd")].flatMap((cell) => {
  const broken = [];
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    for (const word of texts.currentNode.data.matchAll(/(?<![^\\s/-])[^\\s/-]{2,29}(?![^\\s/-])/g)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((one) => one.top)).size > 1) broken.push(word[0]);
    }
  }
  return broken;
})"""


@dataclass
class Reader:
    """Somebody who looks at one dashboard, and the complaints of their browser."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, view: str, *, run: str = "") -> None:
        """Show a view, and wait until it stands."""
        self.page.goto(f"{self.url}/#/{view}{f'?run={run}' if run else ''}")
        self.page.locator("main .view > *").first.wait_for(state="attached")
        expect(self.page.locator("#state")).not_to_have_text("…")

    def faults(self) -> list[str]:
        """What axe finds that keeps people out."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {node['html']}" for one in found if one["impact"] in SERIOUS for node in one["nodes"]]

    def broken_words(self) -> list[str]:
        """Words of tables and facts that stand on two lines; one of 30 characters and more may."""
        found: list[str] = self.page.evaluate(BROKEN_WORDS)
        return found

    def hear(self, message: ConsoleMessage) -> None:
        """Keep what the console should not say."""
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


def chromium() -> str:
    """Where the browser is; without one the tests are skipped, but not in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no browser: install chromium")
    return str(found)


@contextmanager
def a_browser() -> Iterator[Browser]:
    path = chromium()
    playwright: Playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def a_reader(browser: Browser, url: str, *, theme: Theme = "light", size: tuple[int, int] = DESK) -> Iterator[Reader]:
    """In a window of their own."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    context.set_default_timeout(DEADLINE_MILLISECONDS)
    reader = Reader(context.new_page(), url)
    reader.page.on("console", reader.hear)
    reader.page.on("pageerror", lambda error: reader.complaints.append(str(error)))
    yield reader
    context.close()


@contextmanager
def a_live_run(folder: Path, **settings: str) -> Iterator[tuple[Run, str, str]]:
    """The quick start under way; with the address of its page, and the token that steers it."""
    with closing(Run(folder, **settings)) as run:
        assert run.process.stdout is not None
        first = run.process.stdout.readline()
        found = re.search(r"dashboard at (http://\S+) \(token: (.+)\)", first)
        assert found, first
        run.wait_for_step(3)
        yield run, found[1], Path(found[2]).read_text().strip()


@contextmanager
def a_browsed_folder(folder: Path) -> Iterator[str]:
    """`tppo dashboard` on what finished runs have left; its address."""
    command = [*TPPO, "dashboard", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TPPO_TOKEN": ""})
    assert process.stderr is not None
    try:
        while not (found := re.search(r"dashboard at (http://\S+)", line := process.stderr.readline())):
            assert line, "the dashboard ended"
        yield found[1]
    finally:
        end_now(process)
