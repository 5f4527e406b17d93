"""What the documents say of the repository is so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = (page for page in (ROOT / "examples").rglob("*.md") if "node_modules" not in page.parts)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(EXAMPLES)]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
ANCHOR = re.compile(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)")
TEST = re.compile(r"`(test_\w+_\w+_\w+)`")  # a sentence; `test_freq` is a key
ROOMS = ("proto", "tppo", "learner", "services", "tests", "examples", "deploy", "docs", "benchmarks", "tools")
PLACE = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})/[\w./-]*\w")


def defined_tests() -> Iterator[str]:
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.name


def test_every_test_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in TEST.findall(page.read_text(encoding="utf-8"))}

    assert len(named) > 10
    assert named - set(defined_tests()) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_a_page_leads_to_a_heading(page: Path) -> None:
    links = ANCHOR.findall(page.read_text(encoding="utf-8"))

    assert [(path, name) for path, name in links if name not in anchors(page.parent / path if path else page)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_in_the_repository_that_a_page_names_exists(page: Path) -> None:
    places = PLACE.findall(page.read_text(encoding="utf-8"))

    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"README.md"}

    assert pages - set(LINK.findall(index)) == set()


SEARCHED = """duplicate, idempotent, retry, back-off, heartbeat, dead letter, parked, memory pressure, KV cache,
prefill, continuous batching, importance sampling, checkpoint, replayed, incarnation, bearer token, DNS rebinding,
CSRF, high-water mark, lease, fence"""


@pytest.mark.parametrize("word", [word.strip() for word in SEARCHED.split(",")])
def test_a_search_for_the_word_of_the_field_finds_a_page(word: str) -> None:
    texts = (page.read_text(encoding="utf-8") for page in PAGES)

    assert any(word.lower() in " ".join(text.lower().split()) for text in texts)
