"""The page: whole, and free of what its content policy forbids."""

import re
from pathlib import Path

import pytest

from services.dashboard.api import app
from tools import rest_types

STATIC = app.STATIC
PAGES = sorted(STATIC.glob("*.html"))
SCRIPTS = sorted(path for path in STATIC.rglob("*.js") if "vendor" not in path.parts)


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_every_file_that_it_loads_is_there(path: Path) -> None:
    loaded = re.findall(r"[\"']/static/([\w./-]+)[\"']", path.read_text(encoding="utf-8"))

    assert [name for name in loaded if not (STATIC / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_script_stands_in_the_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=", text) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_text_of_a_run_becomes_html(script: Path) -> None:
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script.read_text(encoding="utf-8")) == []
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_type_checker_reads_every_script(script: Path) -> None:
    assert script.read_text(encoding="utf-8").startswith("// @ts-check\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_nothing_is_called_idle(script: Path) -> None:
    """An empty slot, a learner that waits and a process that computes nothing are three things."""
    assert re.findall(r"\bidle", script.read_text(encoding="utf-8"), re.IGNORECASE) == []


def test_the_types_of_the_answers_are_fresh() -> None:
    assert rest_types.FILE.read_text(encoding="utf-8") == rest_types.answer_types(), "run make docs"


def test_the_lock_file_names_no_registry() -> None:
    lock = (Path(__file__).parents[2] / "package-lock.json").read_text(encoding="utf-8")

    assert "resolved" not in lock
