"""docs/dashboard.md lists the addresses of the REST interface, and no other."""

import re
from pathlib import Path

from services.dashboard.api.access import Access
from services.dashboard.api.app import create_app
from services.dashboard.live.stream import Broadcaster
from tests.dashboard.clients import views_of

PAGE = Path(__file__).parents[2] / "docs" / "dashboard.md"


def test_the_page_lists_every_address_of_the_interface(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = text.partition("| address | answer |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    *of_answers, control = (row.strip("| ").split(" | ") for row in rows)
    views = views_of(tmp_path)
    paths = create_app(views, Broadcaster(views), access=Access(token="any")).openapi()["paths"]
    addresses = [path.removeprefix("/api/v1") for path in paths if path.startswith("/api/v1/")]

    assert {name for cell, _ in of_answers for name in re.findall(r"`([^`]+)`", cell)} == {
        name for name in addresses if not name.startswith("/control/")
    }
    commands = {name.removeprefix("/control/") for name in addresses if name.startswith("/control/")}
    assert commands == {name for name in re.findall(r"[a-z-]+", control[1].partition(":")[0]) if name in commands}
    assert len(commands) == 8
