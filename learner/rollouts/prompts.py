"""Data rows in verl's columns -> tokenised prompts, and the endless, seeded order in which they are requested."""

import json
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow
from pyarrow import parquet

from tppo.config.schema import DataSection
from tppo.rollout import tokens


class DataError(ValueError):
    """One sentence: the file, the row, and what was expected there."""


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    chat_template: Any

    def __call__(self, text: str, /, *, add_special_tokens: bool) -> Any:
        """A mapping with `input_ids`."""
        ...

    def apply_chat_template(self, conversation: Any, /, **options: Any) -> Any:
        """The chat messages as one text."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """One data row, ready to be sampled from."""

    index: int  # in its files, laid end to end
    text: str
    token_ids: "array[int]"
    data_source: str
    ground_truth: str
    extra_info: str  # JSON object
    solution: "array[int] | None" = None  # worked, with the token that ends it; of evaluation prompts
    group: str = ""  # of evaluation prompts; empty: of none


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row whose columns are all there."""

    where: str  # file and line, for error messages
    prompt: Any  # a text, or chat messages
    data_source: str
    ground_truth: str
    extra_info: str  # JSON object


def read_rows(section: DataSection, files: Sequence[Path]) -> list[DataRow]:
    """All rows of the files in order. Raises `DataError` at the first row that lacks something."""
    rows = [_data_row(section, where, row) for file in files for where, row in _rows(file)]
    if not rows:
        raise DataError(f"{', '.join(map(str, files))}: no rows; expected at least one prompt")
    return rows


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Turns data rows into prompts."""

    section: DataSection
    tokenizer: Tokenizer
    max_prompt_length: int  # tokens

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """All rows of the files in order. Raises `DataError` at the first row that cannot be used."""
        return [self.prompt(index, row) for index, row in enumerate(read_rows(self.section, files))]

    def prompt(self, index: int, row: DataRow) -> Prompt:
        """The row as a prompt. Raises `DataError` when it cannot be used."""
        text = self._rendered(row.where, row.prompt)
        # A chat template writes the special tokens itself.
        token_ids = tokens(self.tokenizer(text, add_special_tokens=isinstance(row.prompt, str))["input_ids"])
        if not 0 < len(token_ids) <= self.max_prompt_length:
            raise DataError(
                f"{row.where}: the prompt has {len(token_ids)} tokens; "
                f"expected 1 to run.max_prompt_length = {self.max_prompt_length}"
            )
        return Prompt(index, text, token_ids, row.data_source, row.ground_truth, row.extra_info)

    def _rendered(self, where: str, prompt: Any) -> str:
        """A text as it is; chat messages through the tokenizer's template."""
        if isinstance(prompt, str):
            return prompt
        if self.tokenizer.chat_template is None:
            raise DataError(f"{where}: the prompt is a list of messages; expected a tokenizer with a chat template")
        return str(self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """Which prompt is the n-th rollout's: epochs of a seeded permutation, each prompt sampled in a row."""

    num_prompts: int
    samples_per_prompt: int
    seed: int
    shuffle: bool

    def at(self, ordinal: int) -> tuple[int, str]:
        """(index of the prompt, rollout id) of the rollout that is started as number `ordinal`, from 0."""
        position, sample = divmod(ordinal, self.samples_per_prompt)
        epoch, offset = divmod(position, self.num_prompts)
        index = self._permutation(epoch)[offset]
        return index, f"{epoch}-{index}-{sample}"

    def ordinal(self, rollout_id: str) -> int | None:
        """The number whose rollout has this id; None for an id that is not of this order."""
        parts = rollout_id.split("-")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            return None
        epoch, index, sample = map(int, parts)
        if index >= self.num_prompts or sample >= self.samples_per_prompt:
            return None
        offset = self._permutation(epoch).index(index)
        return (epoch * self.num_prompts + offset) * self.samples_per_prompt + sample

    def _permutation(self, epoch: int) -> Sequence[int]:
        return _permutation(self.num_prompts, self.seed, epoch) if self.shuffle else range(self.num_prompts)


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}/{epoch}").sample(range(length), length)


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, the row) for each row of a parquet or JSONL file."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected prompts in parquet or JSONL")
    if file.suffix == ".parquet":
        for number, row in enumerate(_table(file).to_pylist(), 1):
            yield f"{file}, row {number}", row
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}, line {number}", _parsed(f"{file}, line {number}", line)


def _table(file: Path) -> Any:
    try:
        return parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file}: not a parquet file: {error}") from None


def _parsed(where: str, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:  # malformed, or not even UTF-8
        raise DataError(f"{where}: not JSON: {error}") from None


def _data_row(section: DataSection, where: str, row: Any) -> DataRow:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {row!r}; expected an object with verl's columns")
    return DataRow(
        where=where,
        prompt=_column(where, row, section.prompt_key),
        data_source=str(_column(where, row, section.reward_fn_key)),
        ground_truth=_ground_truth(where, row),
        extra_info=json.dumps(row.get("extra_info") or {}, default=str),
    )


def _column(where: str, row: dict[str, Any], name: str) -> Any:
    if row.get(name) in (None, "", []):
        raise DataError(f"{where}: no {name}; expected verl's columns (got {', '.join(row)})")
    return row[name]


def _ground_truth(where: str, row: dict[str, Any]) -> str:
    reward_model = row.get("reward_model")
    answer = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if answer is None or answer == "":
        raise DataError(f"{where}: no answer; expected reward_model.ground_truth")
    return answer if isinstance(answer, str) else json.dumps(answer, default=str)
