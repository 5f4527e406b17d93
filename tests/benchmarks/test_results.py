"""The page's tables are those of the results, and name what nobody has measured."""

from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.__main__ import CHAPTERS, chosen
from benchmarks.results import PAGE, ROOT, Chapter, Lines, Section, keep, page_with, read, table

CHAPTER = Chapter(
    name="speed",
    module="benchmarks.speed",
    minutes=2,
    places=("speed",),
    tables=lambda section: {"speed": table(["", "tokens"], [["ours", str(section["tokens"])]])},
)
PLACE = "before\n<!-- measured: speed -->\nold\n<!-- end -->\nafter\n"


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert page_with(page, read(), CHAPTERS) == page, "expected `python -m benchmarks.results` to have been run"


def test_every_table_has_its_place_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")

    places = [place for chapter in CHAPTERS for place in chapter.places]
    assert [place for place in places if page.count(f"<!-- measured: {place} -->\n") != 1] == []


def test_the_page_or_the_makefile_names_every_program_that_measures() -> None:
    texts = PAGE.read_text(encoding="utf-8") + (ROOT / "Makefile").read_text(encoding="utf-8")
    programs = [path for path in (ROOT / "benchmarks").glob("*/*.py") if '__name__ == "__main__"' in path.read_text()]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in programs}

    assert len(modules) > 25
    unnamed = modules - {chapter.module for chapter in CHAPTERS}
    assert [name for name in sorted(unnamed) if name.rpartition(".")[2] not in texts] == []


def test_what_was_not_measured_has_its_command_and_no_figure() -> None:
    page = page_with(PLACE, {}, [CHAPTER])

    assert "`python -m benchmarks.speed`" in page
    assert "old" not in page
    assert page.startswith("before\n")
    assert page.endswith("<!-- end -->\nafter\n")


@pytest.mark.parametrize(("seconds", "took"), [(25.4, "in 25 seconds."), (150, "in 2 minutes.")])
def test_a_table_stands_with_the_machine_that_it_comes_from(tmp_path: Path, seconds: float, took: str) -> None:
    keep("speed", {"tokens": 7}, seconds=seconds, path=tmp_path / "results.json")

    page = page_with(PLACE, read(tmp_path / "results.json"), [CHAPTER])

    assert "| ours | 7 |" in page
    assert f"{results.machine()['num_cores']} cores" in page
    assert took in page


def test_a_place_without_a_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="no benchmark for other"):
        page_with("<!-- measured: other -->\n<!-- end -->", {}, [CHAPTER])


def test_an_interrupted_benchmark_measures_only_what_is_missing(tmp_path: Path) -> None:
    calls: list[str] = []

    def part(name: str) -> Section:
        calls.append(name)
        return {"number": len(calls)}

    lines = Lines(tmp_path / "lines.jsonl")
    lines.measure({"a": lambda: part("a")}, seconds_each=1.0)
    found = lines.measure({"a": lambda: part("a"), "b": lambda: part("b")}, seconds_each=1.0)

    assert calls == ["a", "b"]
    assert [found[key]["number"] for key in ("a", "b")] == [1, 2]


def test_a_benchmark_of_no_such_name_is_refused() -> None:
    assert [chapter.name for chapter in chosen(["growth", "roofline"])] == ["growth", "roofline"]
    with pytest.raises(SystemExit, match="unknown benchmark 'grow'"):
        chosen(["grow"])
