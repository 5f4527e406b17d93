"""The kept responses, and the parked rollouts of a run under way, as the page shows them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, expect

from services.dashboard.api.access import Access
from services.dashboard.api.app import STATIC, create_app
from services.dashboard.api.routes import responses
from services.dashboard.live.source import Observation
from services.dashboard.live.stream import Broadcaster
from tests.browser.browsing import DESK, PHONE, Reader, Theme, a_reader
from tests.dashboard.clients import NOW, TOKEN, FixedSource, process, views_of
from tests.dashboard.run_folders import RunFolderBuilder, keep, kept, last_window, requested, score
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from tppo.process.listening import listener

BOTH_CAUSES = ("no score: FAILED KeyError: 'x'", "no score: FAILED KeyError: 'y'", "generation failed: out of memory")


@dataclass
class Served:
    """A dashboard in this process, and where its commands go."""

    url: str
    source: FixedSource


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with listener("127.0.0.1", 0, key="port") as opened:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("runs")
    run = RunFolderBuilder(root / "quick")
    for epoch in range(3):
        name = f"{epoch}-7-0"
        run.journal(requested(name, prompt=7), last_window(name), score(name, epoch / 2))
        keep(run, kept(name, f"attempt {epoch}: <b>seven</b>\n\x1b[2J", time=10 * epoch, score=epoch / 2))
    for number, cause in enumerate(BOTH_CAUSES):
        parked = {"kind": "parked", "rollout": f"9-{number}-0", "window": 0, "cause": cause}
        run.journal(requested(f"9-{number}-0"), parked)
    source = FixedSource(Observation(now=NOW, presences=[process("learner")]))
    views = views_of(root, source, live="quick")
    app = create_app(views, Broadcaster(views), access=Access(token=TOKEN), source=source, static=STATIC)
    with pytest.MonkeyPatch.context() as patch, serving(app) as url:
        patch.setattr(responses, "SEARCH_SECONDS", DEADLINE_SECONDS)  # none ends early because the machine is busy
        yield Served(url, source)


def require_good(reader: Reader, size: tuple[int, int]) -> None:
    assert reader.faults() == []
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert reader.complaints == []


@pytest.mark.parametrize(("theme", "size"), [("light", DESK), ("dark", PHONE)])
def test_a_text_in_the_kept_responses_is_found_and_marked(
    browser: Browser, served: Served, theme: Theme, size: tuple[int, int]
) -> None:
    with a_reader(browser, served.url, theme=theme, size=size) as reader:
        reader.open("rollouts")
        expect(reader.page.locator(".preview").first).to_contain_text("<b>seven</b> ⏎ \\u001b[2J")
        field = reader.page.get_by_label("Text in kept responses")
        field.fill("SEVEN")
        field.press("Enter")

        expect(reader.page.locator("mark")).to_have_text(["seven", "seven", "seven"])
        require_good(reader, size)


@pytest.mark.parametrize(("theme", "size"), [("light", DESK), ("dark", PHONE)])
def test_the_responses_to_one_prompt_stand_side_by_side(
    browser: Browser, served: Served, theme: Theme, size: tuple[int, int]
) -> None:
    with a_reader(browser, served.url, theme=theme, size=size) as reader:
        reader.open("rollouts/1-7-0")
        reader.page.get_by_role("link", name="3 kept responses to this prompt").click()

        columns = reader.page.locator(".columns article")
        expect(columns).to_have_count(3)
        assert [text.split(":")[0] for text in columns.locator(".tokens").all_inner_texts()] == [
            *("attempt 0", "attempt 1", "attempt 2")
        ]
        require_good(reader, size)


def test_what_is_parked_for_a_cause_is_dropped_once_it_is_confirmed(browser: Browser, served: Served) -> None:
    with a_reader(browser, served.url) as reader:
        reader.open("ledger")
        reader.page.evaluate(f"sessionStorage.setItem('tppo-token', '{TOKEN}')")
        row = reader.page.get_by_role("row").filter(has_text="no score: FAILED KeyError").first
        row.get_by_role("button", name="Drop").click()
        expect(reader.page.get_by_role("dialog")).to_contain_text("Drop the 2 parked rollouts")
        require_good(reader, DESK)
        reader.page.keyboard.press("Escape")
        expect(reader.page.get_by_role("dialog")).to_have_count(0)
        sent_before = len(served.source.inbox)
        row.get_by_role("button", name="Drop").click()
        reader.page.get_by_role("dialog").get_by_role("button", name="Drop").click()
        (command,) = wait_until(lambda: served.source.inbox, "a command in the inbox")

    assert sent_before == 0
    assert command.arguments == {"cause": '"no score: FAILED KeyError"', "reason": '"dropped by operator"'}
