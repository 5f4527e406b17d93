"""`tools/house.py` finds what breaks the rules of CONTRIBUTING.md, and nothing else."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tools import house


def modules(root: Path, files: Mapping[str, str]) -> house.Modules:
    for path, source in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source)
    return house.read_modules(root, list(files))


def places(findings: Iterable[house.Finding]) -> list[str]:
    return sorted(place for place, _ in findings)


LONG = "\n" * 60


def test_a_small_file_with_one_importer_is_found(tmp_path: Path) -> None:
    tree = modules(tmp_path, {"tppo/small.py": "x = 1\n", "learner/a.py": "import tppo.small" + LONG})

    assert places(house.small_files_with_one_importer(tree)) == ["tppo/small.py"]


def test_a_small_file_with_two_importers_is_not_found(tmp_path: Path) -> None:
    importing = "from tppo.small import x" + LONG
    tree = modules(tmp_path, {"tppo/small.py": "x = 1\n", "learner/a.py": importing, "learner/b.py": importing})

    assert places(house.small_files_with_one_importer(tree)) == []


def test_importers_of_a_name_that_a_package_exports_count_for_its_module(tmp_path: Path) -> None:
    importing = "from tppo.room import x" + LONG
    tree = modules(
        tmp_path,
        {
            "tppo/room/__init__.py": "from tppo.room.small import x\n",
            "tppo/room/small.py": "x = 1\n",
            "learner/a.py": importing,
            "learner/b.py": importing,
        },
    )

    assert places(house.small_files_with_one_importer(tree)) == []


def test_a_program_and_a_module_that_is_loaded_by_name_need_no_importer(tmp_path: Path) -> None:
    tree = modules(
        tmp_path,
        {
            "learner/program.py": 'if __name__ == "__main__":\n    pass\n',
            "learner/loaded.py": "x = 1\n",
            "learner/loader.py": 'NAME = "learner.loaded"' + LONG,
        },
    )

    assert places(house.small_files_with_one_importer(tree)) == []


def test_variants_among_which_their_package_chooses_need_no_other_importer(tmp_path: Path) -> None:
    tree = modules(
        tmp_path,
        {
            "learner/systems/__init__.py": "from learner.systems import a, b\ndef system_for(name):\n    pass\n",
            "learner/systems/a.py": "x = 1\n",
            "learner/systems/b.py": "x = 1\n",
        },
    )

    assert places(house.small_files_with_one_importer(tree)) == []


def test_a_class_name_in_two_places_is_found(tmp_path: Path) -> None:
    tree = modules(
        tmp_path, {"learner/a.py": "class Answer: ...\n", "services/b.py": "class Answer: ...\nclass _Own: ...\n"}
    )

    assert places(house.class_names_in_two_places(tree)) == ["learner/a.py:1"]


def test_a_circle_through_imports_under_type_checking_is_found(tmp_path: Path) -> None:
    tree = modules(
        tmp_path,
        {
            "learner/a.py": "import learner.b\n",
            "learner/b.py": "if TYPE_CHECKING:\n    from learner.a import x\n",
            "learner/c.py": "import learner.a\n",
        },
    )

    assert [text for _, text in house.import_circles(tree)] == ["imports in a circle: learner.a - learner.b"]


def test_a_function_of_more_than_sixty_lines_is_found(tmp_path: Path) -> None:
    tree = modules(tmp_path, {"learner/a.py": "def f():\n" + "    x = 1\n" * 60 + "\ndef g():\n" + "    x = 1\n" * 59})

    assert places(house.long_files_and_functions(tree)) == ["learner/a.py:1"]


def test_a_word_of_no_field_is_found_with_the_word_to_say() -> None:
    found = list(house.words_of_no_field({"page.md": "It waits\nfor ever and dies.\n"}))

    assert found == [("page.md:2", "'for ever'; say indefinitely, without limit")]


def test_a_word_of_no_field_is_found_within_a_name_but_not_within_a_word() -> None:
    found = list(house.words_of_no_field({"a.py": "def ask_again(): foretold()\n"}))

    assert found == [("a.py:1", "'ask_again'; say resend, request again")]
