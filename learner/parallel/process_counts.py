"""How many processes train each model, as the run's logs say it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

OF_POLICY, OF_VALUE_MODEL = "num_processes", "num_value_processes"


class ProcessCounts(NamedTuple):
    """Of a learner."""

    of_policy: int = 1
    of_value_model: int = 0  # that have it alone; 0: it is in those of the policy

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """As a log has them; one that says nothing is of one process."""
        return cls(int(said.get(OF_POLICY) or 1), int(said.get(OF_VALUE_MODEL) or 0))

    def as_json(self) -> dict[str, int]:
        """For a log."""
        of_value_model = {OF_VALUE_MODEL: self.of_value_model} if self.of_value_model else {}
        return {OF_POLICY: self.of_policy} | of_value_model

    @property
    def total(self) -> int:
        """Of all."""
        return self.of_policy + self.of_value_model

    def __str__(self) -> str:
        what = f"{self.of_policy} process{'es' if self.of_policy > 1 else ''}"
        return f"{what} of the policy and {self.of_value_model} of the value model" if self.of_value_model else what
