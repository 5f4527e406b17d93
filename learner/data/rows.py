"""Parquet or JSONL files -> rows whose columns are there and can be used; read as a stream, so that any size fits."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from learner.data.shape import DataError, Where, kind_of, require_prompt, require_unicode, shown
from tppo.config.schema import DataSection

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROWS_AT_ONCE = 1024  # of a parquet file


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row whose columns are all there."""

    where: Where
    prompt: Any  # a text, or chat messages
    data_source: str
    ground_truth: str
    extra_info: str  # JSON object


def rows_in(section: DataSection, files: Sequence[Path]) -> Iterator[DataRow]:
    """All rows of the files in order. Raises `DataError` at the first that cannot be used, or when there is none."""
    is_empty = True
    for file in files:
        for where, row in _plain_rows(file):
            is_empty = False
            yield _data_row(section, where, row)
    if is_empty:
        raise DataError(f"{', '.join(map(str, files))}: no rows; expected at least one prompt")


def _plain_rows(file: Path) -> Iterator[tuple[Where, Any]]:
    """(where it stands, the row) for each row of a parquet or JSONL file."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected prompts in parquet or JSONL")
    rows = _parquet_rows if file.suffix == ".parquet" else _json_rows
    try:
        yield from rows(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _json_rows(file: Path) -> Iterator[tuple[Where, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                where = Where(file, number, "line")
                yield where, _parsed(where, text)


def _parsed(where: Where, line: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise DataError(f"{where}: not UTF-8: {byte}; expected text in UTF-8") from None
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: too deeply nested; expected verl's columns") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; expected a number or null")


def _parquet_rows(file: Path) -> Iterator[tuple[Where, Any]]:
    number = 0
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in _rows_of(batch, file, number):
                    number += 1
                    yield Where(file, number, "row"), row
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: not a parquet file, or a damaged one: {error}") from None


def _rows_of(batch: Any, file: Path, num_before: int) -> Sequence[Any]:
    """The batch as dictionaries; Arrow does not look whether its texts are UTF-8, so the first that is not is found."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        for offset in range(batch.num_rows):
            try:
                batch.slice(offset, 1).to_pylist()
            except UnicodeDecodeError as error:
                where = Where(file, num_before + offset + 1, "row")
                raise DataError(f"{where}: not UTF-8: {error.reason}; expected text in UTF-8") from None
        raise


def _data_row(section: DataSection, where: Where, row: Any) -> DataRow:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {shown(row)}; expected an object with verl's columns")
    return DataRow(
        where=where,
        prompt=require_prompt(where, section.prompt_key, _column(where, row, section.prompt_key)),
        data_source=_data_source(where, section.reward_fn_key, row),
        ground_truth=_ground_truth(where, row),
        extra_info=_extra_info(where, row),
    )


def _column(where: Where, row: dict[str, Any], name: str) -> Any:
    if row.get(name) in (None, "", []):
        raise DataError(f"{where}: no {name}; expected verl's columns (got {', '.join(row)})")
    return row[name]


def _data_source(where: Where, name: str, row: dict[str, Any]) -> str:
    value = _column(where, row, name)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {kind_of(value)}, {shown(value)}; expected a text")
    return require_unicode(where, name, value)


def _ground_truth(where: Where, row: dict[str, Any]) -> str:
    """A text as it is, anything else as JSON; NaN is how pandas writes that there is none."""
    reward_model = row.get("reward_model")
    answer = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if answer is None or answer == "" or (isinstance(answer, float) and math.isnan(answer)):
        raise DataError(f"{where}: no answer; expected reward_model.ground_truth")
    require_unicode(where, "reward_model.ground_truth", answer)
    return answer if isinstance(answer, str) else json.dumps(answer, default=str)


def _extra_info(where: Where, row: dict[str, Any]) -> str:
    extra_info = row.get("extra_info")
    if extra_info is None:
        return "{}"
    if not isinstance(extra_info, dict):
        raise DataError(f"{where}: extra_info is {kind_of(extra_info)}, {shown(extra_info)}; expected an object")
    return json.dumps(require_unicode(where, "extra_info", extra_info), default=str)
