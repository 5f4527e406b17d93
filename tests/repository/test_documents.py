"""What the documents say of the repository is so."""

import ast
import contextlib
import functools
import importlib
import io
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tppo.__main__ import VERBS
from tppo.config import Config

ROOT = Path(__file__).parents[2]
EXAMPLES = (page for page in (ROOT / "examples").rglob("*.md") if "node_modules" not in page.parts)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(EXAMPLES)]
GUIDES = [
    page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"
]  # all of the present
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
ANCHOR = re.compile(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)")
TEST = re.compile(r"`(test_\w+_\w+_\w+)`")  # a sentence; `test_freq` is a key
ROOMS = ("proto", "tppo", "learner", "services", "tests", "examples", "deploy", "docs", "benchmarks", "tools")
PLACE = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})/[\w./-]*\w")

SOURCES = (".py", ".toml", ".yml", ".proto", ".sh", ".js", ".conf")
NOT_SOURCES = re.compile(r"tppo/v1/.*_pb2|tests/repository/test_house")  # generated; with places of its own
CODE = re.compile(r"^ *```\w*\n(.*?)^ *```|^    (?=\S)(.*?)$|`([^`]+)`", re.DOTALL | re.MULTILINE)
TOML = re.compile(r"^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?<![\w./-])tppo ([a-z][\w-]*)([^\n|;&#)]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
TARGET = re.compile(r"(?<![\w./-])make ([a-z][\w-]*)")
MODULE = re.compile(r"-m ((?:benchmarks|tests|tools|tppo|services|learner)[\w.]*)")
KEY = re.compile(rf"(?<![\w./-])({'|'.join(Config.model_fields)})\.([a-z_]+)(?![\w/(-])")
NO_KEYS = {"conf", "json", "jsonl", "md", "parquet", "py", "safetensors", "token", "toml", *Config.model_fields}
"""Behind a section's name: endings of files, and users of Redis, such as `run.reward`."""


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


def code(page: Path) -> str:
    """The page's code, a command a line."""
    parts = (next(filter(None, found.groups()), "") for found in CODE.finditer(page.read_text(encoding="utf-8")))
    return "\n".join(parts).replace("\\\n", " ")


@functools.cache
def options_of(verb: str) -> frozenset[str]:
    """Those that the help of the verb's module says."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(VERBS[verb][0]).main(["--help"])
    return frozenset(OPTION.findall(text.getvalue()))


def test_every_command_that_a_page_shows_exists_with_its_options() -> None:
    shown = [(page.name, *found) for page in GUIDES for found in COMMAND.findall(code(page))]
    options = [(page, verb, one) for page, verb, rest in shown if verb in VERBS for one in OPTION.findall(rest)]

    assert len(shown) > 100
    assert len(options) > 30
    assert [(page, verb) for page, verb, _ in shown if verb not in VERBS] == []
    assert [(page, verb, one) for page, verb, one in options if one not in options_of(verb)] == []


def test_every_target_of_make_and_every_module_that_a_page_shows_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [(page.name, target) for page in GUIDES for target in TARGET.findall(code(page))]
    modules = [(page.name, module) for page in GUIDES for module in MODULE.findall(code(page))]

    assert len(targets) > 20
    assert len(modules) > 20
    assert [(page, target) for page, target in targets if f"\n{target}:" not in makefile] == []
    assert [(page, module) for page, module in modules if not is_program(module)] == []


def is_program(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_every_configuration_key_that_a_page_names_exists() -> None:
    pages = [page for page in GUIDES if page.name != "configuration.md"]  # which names keys of others, too
    named = [(page.name, *key) for page in pages for key in (*KEY.findall(code(page)), *keys_of_files(page))]

    assert len(named) > 300
    assert [found for found in named if found[2] not in (*keys_of(found[1]), *NO_KEYS)] == []


def keys_of_files(page: Path) -> Iterator[tuple[str, str]]:
    """Of the configurations that it shows."""
    for file in TOML.findall(page.read_text(encoding="utf-8")):
        yield from ((section, key) for section, keys in tomllib.loads(file).items() for key in keys)


def keys_of(section: str) -> list[str]:
    model: Any = Config.model_fields[section].annotation
    return list(model.model_fields)


def test_every_file_of_the_repository_that_the_code_names_exists() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    ours = [ROOT / name for name in tracked if Path(name).suffix in SOURCES and not NOT_SOURCES.match(name)]
    places = [(file, place) for file in ours for place in PLACE.findall(file.read_text(encoding="utf-8"))]
    named = [(file, place) for file, place in places if Path(place).suffix]

    assert len(named) > 100
    assert [(str(file), place) for file, place in named if not exists(place, ROOT, ROOT / "proto", file.parent)] == []


def exists(place: str, *folders: Path) -> bool:
    return any((folder / place).exists() for folder in folders)


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
