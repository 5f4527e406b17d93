"""When the value model has learnt enough: a function of the explained variances so far, so that a resume decides alike.

Each one is measured on responses before the value model trains on them, so a value model that only memorises is seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EXPLAINED_VARIANCE = "critic/vf_explained_var"


@dataclass(frozen=True, slots=True)
class StopRule:
    """Of the mean explained variance over the last steps that have one."""

    bound: float | None = None
    """That is enough; None: as much as there is to be had."""
    num_averaged: int = 5
    num_settled: int = 10
    """So many steps without a rise end it."""
    least_rise: float = 0.01

    def means(self, values: Sequence[float]) -> list[float]:
        """After each step that has as many behind it."""
        last = range(self.num_averaged, len(values) + 1)
        return [sum(values[end - self.num_averaged : end]) / self.num_averaged for end in last]

    def reason(self, values: Sequence[float]) -> str:
        """Why they are enough; empty: they are not."""
        best, num_since_rise = -float("inf"), 0
        for mean in self.means(values):
            if self.bound is not None and mean >= self.bound:
                return f"it has reached {self.bound:g}"
            num_since_rise = 0 if mean > best + self.least_rise else num_since_rise + 1
            best = max(best, mean) if num_since_rise == 0 else best
            if num_since_rise >= self.num_settled:
                return f"it has not risen by {self.least_rise:g} in {self.num_settled} steps"
        return ""


class Course:
    """The explained variances of a run; a step that comes again, after a crash, replaces what followed it."""

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule
        self.num_steps = 0
        self._values: dict[int, float] = {}

    @property
    def mean(self) -> float | None:
        """Over the last steps; None where there are too few."""
        means = self.rule.means(list(self._values.values()))
        return means[-1] if means else None

    @property
    def reason(self) -> str:
        """Why it is enough; empty: it is not."""
        return self.rule.reason(list(self._values.values()))

    def take(self, line: Mapping[str, Any]) -> bool:
        """Whether it is enough, after this step of metrics.jsonl; one without the number says nothing."""
        self.num_steps = int(line["step"])
        self._values = {step: value for step, value in self._values.items() if step < self.num_steps}
        if (value := line.get(EXPLAINED_VARIANCE)) is not None:
            self._values[self.num_steps] = float(value)
        return bool(self.reason)
