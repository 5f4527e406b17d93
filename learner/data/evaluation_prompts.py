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
class EvaluationPromptReader:
    """Turns rows into prompts that have a solution and a group, where the configuration says so."""

    section: EvaluationSection
    prompts: PromptReader
    end_token_id: int  # ends a solution

    def read(self, files: Sequence[Path]) -> ReadPrompts:
        """The prompts that are evaluated. Raises `DataError` at the first row that cannot be used."""
        overlong = self.prompts.overlong("data.val_files")
        prompts = list(self.stream(files, overlong))
        return ReadPrompts(prompts, overlong.num_too_long)

    def stream(self, files: Sequence[Path], overlong: Overlong) -> Iterator[Prompt]:
        """The first `evaluation.num_prompts` of those that are not too long; the rows behind them are checked too."""
        rows = self.prompts.stream(files, overlong) if files else iter(())
        for row, prompt in islice(rows, self.section.num_prompts):
            yield self._completed(prompt, row)
        deque(rows, maxlen=0)

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
