"""Benchmark files -> problems: rows in verl's columns as they are, others by the prompt of their kind.

Read are JSON Lines, also gzipped, and parquet. A row in verl's columns has `prompt` and `reward_model.ground_truth`;
any other has a problem (`problem` or `question`) and an answer (`answer`), whatever their case, as AIME 2024 and 2025,
GSM8K and MATH-500 are published.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet

from tppo.config import ConfigError

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATES = {
    "math": "{problem}\n" + BOXED,
    "aime": "{problem}\n" + BOXED + " The answer is a whole number from 0 to 999.",
    "gsm8k": "{problem}\nLet's think step by step and put the final answer within \\boxed{}.",
    "plain": "{problem}",
}
"""By the kind of a benchmark."""
PROBLEM, PROBLEMS, ANSWERS = "{problem}", ("problem", "question"), ("answer", "final_answer")
MESSAGES_OF_A_ROW = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class BenchmarkProblem:
    """One row, ready to be asked."""

    number: int  # over all files, from 0
    data_source: str
    prompt: str | MESSAGES_OF_A_ROW  # a text, or chat messages
    ground_truth: str
    extra_info: str  # JSON object

    @property
    def text(self) -> str:
        """Of the prompt, for the reward function."""
        return self.prompt if isinstance(self.prompt, str) else str(self.prompt[-1].get("content", ""))


def problems_in(files: Sequence[Path], *, template: str = "", limit: int | None = None) -> list[BenchmarkProblem]:
    """The first so many problems of each file. `template` names a kind, or is a text with {problem}.

    Raises `ConfigError`.
    """
    if template and template not in TEMPLATES and PROBLEM not in template:
        kinds = ", ".join(TEMPLATES)
        raise ConfigError(f"--template {template!r}: expected one of {kinds}, or a text with {PROBLEM}")
    found: list[BenchmarkProblem] = []
    for file in files:
        rows = [*_limited(_rows(file), limit)]
        if not rows:
            raise ConfigError(f"--benchmark {file}: no rows; expected at least one problem")
        found += [_problem(len(found) + place, file, number, row, template) for place, (number, row) in enumerate(rows)]
    return found


def _limited(rows: Iterator[tuple[int, Any]], limit: int | None) -> Iterator[tuple[int, Any]]:
    for count, row in enumerate(rows):
        if count == limit:
            return
        yield row


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Each with its number in the file, from 1."""
    try:
        if file.suffix == ".parquet":
            yield from enumerate(parquet.read_table(file).to_pylist(), 1)
            return
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _parsed(file, number, line)
    except (OSError, UnicodeDecodeError, EOFError, ArrowException) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--benchmark {file}: cannot be read: {cause}; expected JSON Lines or parquet") from None


def _parsed(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--benchmark {file}, line {number}: not JSON: {error}") from None


def _problem(place: int, file: Path, number: int, row: Any, template: str) -> BenchmarkProblem:
    where = f"--benchmark {file}, row {number}"
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a {type(row).__name__}; expected an object")
    reward_model = row.get("reward_model")
    if isinstance(reward_model, dict):
        return _of_verl(place, where, row, reward_model)
    columns = {str(name).lower(): value for name, value in row.items()}
    problem, answer = _first(columns, PROBLEMS), _first(columns, ANSWERS)
    if not isinstance(problem, str) or not problem or answer is None or answer == "":
        raise ConfigError(
            f"{where}: its columns are {', '.join(map(str, row))}; "
            "expected verl's (prompt, reward_model.ground_truth), "
            f"or a problem ({' or '.join(PROBLEMS)}) and an answer ({' or '.join(ANSWERS)})"
        )
    data_source = _data_source(columns, file)
    text = _template(template, data_source, file).replace(PROBLEM, problem)
    more = {name: columns[name] for name in ("level", "subject") if isinstance(columns.get(name), str | int)}
    return BenchmarkProblem(place, data_source, [{"role": "user", "content": text}], _final(answer), json.dumps(more))


def _of_verl(place: int, where: str, row: Mapping[str, Any], reward_model: Mapping[str, Any]) -> BenchmarkProblem:
    prompt, answer = row.get("prompt"), reward_model.get("ground_truth")
    is_text = isinstance(prompt, str) and prompt != ""
    is_chat = isinstance(prompt, list) and prompt != [] and all(isinstance(one, dict) for one in prompt)
    if not (is_text or is_chat) or answer is None or answer == "":
        raise ConfigError(f"{where}: expected prompt, a text or messages, and reward_model.ground_truth")
    extra_info = row.get("extra_info") or {}
    return BenchmarkProblem(
        place,
        str(row.get("data_source") or ""),
        prompt,  # type: ignore[arg-type]
        answer if isinstance(answer, str) else json.dumps(answer, default=str),
        json.dumps(extra_info if isinstance(extra_info, dict) else {}, default=str),
    )


def _first(columns: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((columns[name] for name in names if columns.get(name) is not None), None)


def _data_source(columns: Mapping[str, Any], file: Path) -> str:
    named = columns.get("data_source") or columns.get("source")
    return named if isinstance(named, str) and named else file.name.partition(".")[0]


def _template(template: str, data_source: str, file: Path) -> str:
    """As named, else that of the kind which the data source or the file's name holds."""
    if template:
        return TEMPLATES.get(template, template)
    name = f"{data_source} {file.name}".lower()
    return TEMPLATES[next((kind for kind in ("aime", "gsm8k") if kind in name), "math")]


def _final(answer: Any) -> str:
    """What follows GSM8K's last ####, without thousands commas; any other answer as it is."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    before, mark, final = text.rpartition("####")
    return final.strip().replace(",", "") if mark and before else text.strip()
