"""What a row of an evaluation set names in `extra_info`: a worked solution, and a number by which rows are grouped."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from learner.rollouts.prompts import DataError, DataRow, Prompt, PromptReader, read_rows
from tppo.config.schema import EvaluationSection
from tppo.rollout import tokens


@dataclass(frozen=True, slots=True)
class EvaluationPromptReader:
    """Turns rows into prompts that have a solution and a group, where the configuration says so."""

    section: EvaluationSection
    prompts: PromptReader
    end_token_id: int  # ends a solution

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """The rows that are evaluated. Raises `DataError` at the first row that cannot be used."""
        rows = read_rows(self.prompts.section, files) if files else []
        prompts = [self.prompts.prompt(index, row) for index, row in enumerate(rows)]
        evaluated = slice(self.section.num_prompts)
        return [self._completed(*pair) for pair in zip(prompts[evaluated], rows[evaluated], strict=True)]

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
    extra_info = json.loads(row.extra_info)
    return extra_info.get(name) if isinstance(extra_info, dict) else None
