"""What a row of an evaluation set names in `extra_info`: a worked solution, and a number by which rows are grouped."""

import json
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from learner.data.prompts import Overlong, PromptReader, ReadPrompts
from learner.data.rows import DataRow
from learner.data.shape import DataError
from learner.rollouts.prompts import Prompt
from tppo.config.schema import EvaluationSection
from tppo.rollout import tokens


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Files whose prompts are reported together, and a count of those that are too long."""

    name: str
    """Empty: `data.val_files`."""
    files: Sequence[Path]
    overlong: Overlong


@dataclass(frozen=True, slots=True)
class EvaluationPromptReader:
    """Turns rows into prompts that have a solution and a group, where the configuration says so."""

    section: EvaluationSection
    prompts: PromptReader
    end_token_id: int  # ends a solution

    def read(self, val_files: Sequence[Path]) -> ReadPrompts:
        """The prompts that are evaluated. Raises `DataError` at the first row that cannot be used."""
        sets = self.sets(val_files)
        prompts = list(self.stream(sets))
        return ReadPrompts(prompts, sum(one.overlong.num_too_long for one in sets))

    def sets(self, val_files: Sequence[Path]) -> list[EvaluationSet]:
        """`data.val_files`, if there are any, and those of `evaluation.sets` in their order."""
        named = [
            EvaluationSet(name, files, self.prompts.overlong(f"evaluation.sets.{name}"))
            for name, files in self.section.sets.items()
        ]
        unnamed = [EvaluationSet("", val_files, self.prompts.overlong("data.val_files"))] if val_files else []
        return [*unnamed, *named]

    def stream(self, sets: Sequence[EvaluationSet]) -> Iterator[Prompt]:
        """The first `evaluation.num_prompts` of each set that are not too long; the rows behind them are checked too.

        Worked solutions and groups are those of `data.val_files`.
        """
        num_rows = 0
        for one in sets:
            rows = self.prompts.stream(one.files, one.overlong)
            for row, prompt in islice(rows, self.section.num_prompts):
                self._require_name_of_its_own(row, one)
                placed = replace(prompt, index=num_rows + prompt.index, set_name=one.name)
                yield placed if one.name else self._completed(placed, row)
            deque(rows, maxlen=0)
            num_rows += one.overlong.num_rows

    def _require_name_of_its_own(self, row: DataRow, of: EvaluationSet) -> None:
        """Metrics name the rows of `data.val_files` by their data source, and all others by their set."""
        if not of.name and row.data_source in self.section.sets:
            raise DataError(
                f"{row.where}: data_source is {row.data_source!r}, and evaluation.sets has a set of this name, so that "
                "both would be one metric; expected another name of the set"
            )

    def _completed(self, prompt: Prompt, row: DataRow) -> Prompt:
        text = solution_of(row, self.section)
        solution = None if text is None else self._solution_tokens(text)
        return replace(prompt, solution=solution, group=group_of(row, self.section))

    def _solution_tokens(self, text: str) -> "array[int]":
        return tokens([*self.prompts.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_token_id])


def solution_of(row: DataRow, section: EvaluationSection) -> str | None:
    """The worked solution; None without `evaluation.solution_key`."""
    if section.solution_key is None:
        return None
    solution = _of_extra_info(row, section.solution_key)
    if not isinstance(solution, str) or not solution:
        raise DataError(
            f"{row.where}: extra_info.{section.solution_key} is {solution!r}; "
            f"expected a worked solution, as a text, because evaluation.solution_key names it"
        )
    return solution


def group_of(row: DataRow, section: EvaluationSection) -> str:
    """As metrics name it: `k_to_20`, `k_21_to_200`, `k_above_200`; empty without `evaluation.group_key`."""
    key = section.group_key
    if key is None:
        return ""
    number = _of_extra_info(row, key)
    if type(number) is not int:
        raise DataError(
            f"{row.where}: extra_info.{key} is {number!r}; "
            f"expected a whole number, because evaluation.group_key names it"
        )
    first: int | None = None  # of the range
    for bound in section.group_bounds:
        if number <= bound:
            return f"{key}_to_{bound}" if first is None else f"{key}_{first}_to_{bound}"
        first = bound + 1
    return f"{key}_above_{section.group_bounds[-1]}"


def _of_extra_info(row: DataRow, name: str) -> Any:
    return json.loads(row.extra_info).get(name)
