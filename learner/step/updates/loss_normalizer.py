"""By what the policy's loss is divided: `algorithm.loss_normalizer`.

Tokens per step vary tenfold. Divided by its own count, a token of a step of short responses weighs ten times one of a
step of long ones; each of the others holds something else constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Normalizer = Literal["tokens", "rows", "constant", "running"]
MEMORY = 0.98  # of the running mean, per step


@dataclass(slots=True)
class LossNormalizer:
    """What multiplies each row of a mini-batch, whose loss is a mean over its tokens otherwise.

    Rows without a token count nowhere.

    `tokens`: nothing. `rows`: the mean over rows of each row's mean. `constant`: as if each row had `window_length`
    tokens. `running`: as if each had the mean of the steps so far, with a memory of 1 / (1 - MEMORY) steps.
    """

    normalizer: Normalizer
    window_length: int
    mean_length: float | None = None  # tokens of a row that train the policy; None before the first step

    def observe(self, row_lengths: Sequence[int]) -> None:
        """Another step's rows, by their tokens that train the policy."""
        num_rows = _num_filled(row_lengths)
        if not num_rows:
            return
        mean = sum(row_lengths) / num_rows
        self.mean_length = mean if self.mean_length is None else MEMORY * self.mean_length + (1.0 - MEMORY) * mean

    def factors(self, row_lengths: Sequence[int]) -> list[float]:
        """One for each row of a mini-batch."""
        num_tokens, num_rows = sum(row_lengths), max(1, _num_filled(row_lengths))
        match self.normalizer:
            case "tokens":
                return [1.0] * len(row_lengths)
            case "rows":
                return [num_tokens / (num_rows * max(1, length)) for length in row_lengths]
            case "constant":
                return [num_tokens / (num_rows * self.window_length)] * len(row_lengths)
            case "running":
                mean_length = self.mean_length or 1.0  # None where no row had a token so far: nothing is multiplied
                return [num_tokens / (num_rows * mean_length)] * len(row_lengths)


def _num_filled(row_lengths: Sequence[int]) -> int:
    return sum(length > 0 for length in row_lengths)
