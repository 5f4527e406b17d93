"""Benchmark files in the shapes in which they are published, and in verl's."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from services.local.evaluate.benchmarks import BOXED, TEMPLATES, BenchmarkProblem, problems_in
from tppo.config import ConfigError


def written(folder: Path, name: str, *rows: Any) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(problem: BenchmarkProblem) -> str:
    """Of a problem that became one message."""
    assert not isinstance(problem.prompt, str)
    (message,) = problem.prompt
    assert message["role"] == "user"
    return str(message["content"])


@pytest.mark.parametrize(
    ("name", "row", "kind", "data_source", "answer"),
    [
        ("aime24.jsonl", {"ID": "2024-I-1", "Problem": "P", "Solution": "s", "Answer": 204}, "aime", "aime24", "204"),
        ("aime2025.jsonl", {"question": "P", "answer": "70"}, "aime", "aime2025", "70"),
        ("test.jsonl", {"problem": "P", "answer": "18", "source": "gsm8k/test"}, "gsm8k", "gsm8k/test", "18"),
        ("gsm8k.jsonl", {"question": "P", "answer": "He has 2 < 3.\n#### 1,018"}, "gsm8k", "gsm8k", "1018"),
        ("math500.jsonl", {"problem": "P", "answer": "p - q", "source": "MATH-500"}, "math", "MATH-500", "p - q"),
        ("other.jsonl", {"problem": "P", "answer": "\\frac{1}{2}"}, "math", "other", "\\frac{1}{2}"),
    ],
)  # fmt: skip
def test_a_published_row_gets_the_prompt_of_its_kind(
    tmp_path: Path, name: str, row: dict[str, Any], kind: str, data_source: str, answer: str
) -> None:
    (problem,) = problems_in([written(tmp_path, name, row)])

    assert asked(problem) == TEMPLATES[kind].replace("{problem}", "P")
    assert (problem.data_source, problem.ground_truth) == (data_source, answer)


def test_rows_in_verl_s_columns_are_asked_as_they_are(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2"}]
    rows = [
        {"data_source": "sums", "prompt": messages, "reward_model": {"ground_truth": 4}, "extra_info": {"k": 1}},
        {"data_source": "sums", "prompt": "2 + 3 =", "reward_model": {"ground_truth": "5"}},
    ]

    chat, text = problems_in([written(tmp_path, "a.jsonl", *rows)])

    assert (chat.prompt, chat.ground_truth, json.loads(chat.extra_info)) == (messages, "4", {"k": 1})
    assert (text.prompt, text.text, text.number) == ("2 + 3 =", "2 + 3 =", 1)


def test_files_are_read_one_behind_the_other_gzipped_or_parquet_as_well(tmp_path: Path) -> None:
    rows = [{"problem": str(number), "answer": str(number)} for number in range(3)]
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")

    found = problems_in([zipped, tmp_path / "b.parquet"], template="plain", limit=2)

    assert [(one.number, asked(one), one.data_source) for one in found] == [
        (0, "0", "a"), (1, "1", "a"), (2, "0", "b"), (3, "1", "b"),
    ]  # fmt: skip


def test_a_template_is_named_or_given(tmp_path: Path) -> None:
    path = written(tmp_path, "aime.jsonl", {"problem": "{P}", "answer": "1"})

    (named,) = problems_in([path], template="math")
    (given,) = problems_in([path], template="Q: {problem}\nA:")

    assert asked(named) == "{P}\n" + BOXED
    assert asked(given) == "Q: {P}\nA:"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "no rows; expected at least one problem"),
        ("{", "line 1: not JSON"),
        ("[1]", "row 1: a list; expected an object"),
        ('{"text": "a"}', "row 1: its columns are text; expected verl's"),
        ('{"problem": "", "answer": "1"}', "row 1: its columns are problem, answer"),
        ('{"problem": "a", "answer": null}', "expected verl's"),
        ('{"prompt": 5, "reward_model": {"ground_truth": "1"}}', "row 1: expected prompt, a text or messages"),
        ('{"prompt": "a", "reward_model": {}}', "row 1: expected prompt"),
    ],
)
def test_a_row_that_is_no_problem_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)

    with pytest.raises(ConfigError, match=f"--benchmark {path}.*{sentence}".replace("(", r"\(")):
        problems_in([path])


def test_a_file_that_cannot_be_read_and_a_template_without_problem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(b"no parquet")

    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read: No such file"):
        problems_in([tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match=r"b\.parquet: cannot be read"):
        problems_in([tmp_path / "b.parquet"])
    with pytest.raises(ConfigError, match=r"--template 'Answer': expected one of math, aime, gsm8k, plain, or a text"):
        problems_in([tmp_path / "none.jsonl"], template="Answer")
