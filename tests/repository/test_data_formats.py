"""The rows that README.md shows are rows: they load, and the tests of programs in them judge programs."""

import json
import re
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from learner.data.rows import DataRow, rows_in
from services.reward.verifiers.programs import formats
from tppo.config.schema import DataSection
from tppo.rollout import RewardRequest

PAGE = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LINES = [
    line.strip()
    for block in re.findall(r"^ *```json\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
KINDS = {
    "functions": "PythonTests",
    "humaneval": "PythonTests",
    "pytest": "PythonTests",
    "scripts": "StandardIO",
    "leetcode": "Calls",
}


def loaded(file: Path) -> list[DataRow]:
    return list(rows_in(DataSection(train_files=[str(file)]), [file]))


def test_every_row_of_the_readme_loads(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(LINES), encoding="utf-8")

    assert [row.data_source for row in loaded(file)] == [
        "sums",
        "gsm8k",
        *list(KINDS)[:2],
        "scripts",
        "leetcode",
        "pytest",
        "puzzles",
    ]


@pytest.mark.parametrize("line", LINES, ids=[json.loads(line)["data_source"] for line in LINES])
def test_a_row_of_the_readme_is_the_same_in_parquet(tmp_path: Path, line: str) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text(line, encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist([json.loads(line)]), table)

    (one,), (other,) = loaded(lines), loaded(table)

    assert (one.prompt, one.ground_truth, one.extra_info) == (other.prompt, other.ground_truth, other.extra_info)


@pytest.mark.parametrize(("source", "kind"), KINDS.items())
def test_the_tests_of_programs_in_the_readme_are_of_their_format(tmp_path: Path, source: str, kind: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(LINES), encoding="utf-8")
    row = next(one for one in loaded(file) if one.data_source == source)

    held = formats.tests_of(RewardRequest("r", 0, source, row.prompt, "", row.ground_truth, row.extra_info), form="")

    assert type(held).__name__ == kind
