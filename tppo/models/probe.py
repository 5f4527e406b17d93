"""The probe: a few rows on which a model must say what transformers' plain forward pass says of each row alone.

Learner and engine compute log-probabilities in ways of their own (rows packed in one line, a KV cache, padding), and
what is right in one family is wrong in another. So each compares itself with `model(input_ids)` before it works. The
rows are short and long ones, and where the model can afford it one that reaches beyond its attention's window.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppo.models.context_length import context_length
from tppo.weight_probe import ProbeRow

NUM_COMPARED = 24  # tokens of each row
SHORT_LENGTHS = (19, 6, 33, 2)
BEYOND_WINDOW = 12  # tokens of the longest row that lie beyond the window
MAX_FLOPS = 2e11  # of one forward pass over the row beyond the window: some seconds on a processor's core
WINDOW_KEYS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention")


COMMON_SIZE = 8.5  # nats; of log-probabilities that the tolerances are stated for


class Tolerance(NamedTuple):
    """Of log-probabilities of a common size, in nats."""

    worst: float
    mean: float

    def at(self, size: float) -> "Tolerance":
        """Of log-probabilities of this mean size: rounding errors grow with the numbers that are rounded."""
        growth = max(1.0, size / COMMON_SIZE)
        return Tolerance(self.worst * growth, self.mean * growth)


TOLERANCES: Mapping[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(worst=2e-3, mean=2e-4),
    # Eight significant bits: logits near 20 are multiples of 1/8. Measured: 0.20 and 0.017 over two layers of any
    # family, 0.18 and 0.05 over the 30 of SmolLM2-135M, 0.78 and 0.11 over the 18 of Gemma 3 270M (logits up to 180).
    torch.bfloat16: Tolerance(worst=1.0, mean=0.1),
    torch.float16: Tolerance(worst=0.15, mean=0.02),
}


@dataclass(frozen=True, slots=True)
class LogprobDifference:
    """How far two lists of log-probabilities are from each other."""

    worst: float  # nats; infinite where one is not a number
    mean: float
    row: int  # where the worst is: of which row, and which token of it
    token: int
    size: float = 0.0  # of the expected log-probabilities, in the mean

    def is_within(self, tolerance: Tolerance) -> bool:
        """Whether it may be rounding."""
        allowed = tolerance.at(self.size)
        return self.worst <= allowed.worst and self.mean <= allowed.mean


class ProbeError(ValueError):
    """A model does not compute what transformers' plain forward pass does."""


def probe_rows(
    vocabulary_size: int, *, window: int | None = None, capacity: int | None = None, num_parameters: int = 0
) -> list[ProbeRow]:
    """The same rows for the same model; `capacity` bounds their length, `num_parameters` what the longest may cost.

    `num_parameters` are those that compute for each token, so without embeddings.
    """
    lengths = list(SHORT_LENGTHS)
    if window is not None and 2 * num_parameters * (window + BEYOND_WINDOW) <= MAX_FLOPS:
        lengths.append(window + BEYOND_WINDOW)
    fitting = [length for length in lengths if capacity is None or length <= capacity]
    generator = torch.Generator().manual_seed(20)
    rows = [torch.randint(vocabulary_size, (length,), generator=generator).tolist() for length in fitting]
    return [ProbeRow.of(row, num_compared=NUM_COMPARED) for row in rows]


def rows_for(model: Any, *, capacity: int | None = None) -> list[ProbeRow]:
    """`probe_rows` of a model of transformers; `capacity` bounds them where it is less than the model's own length."""
    lengths = [length for length in (capacity, context_length(model.config)) if length is not None]
    return probe_rows(
        model.config.get_text_config().vocab_size,
        window=attention_window(model.config),
        capacity=min(lengths, default=None),
        num_parameters=model.num_parameters(exclude_embeddings=True),
    )


def attention_window(config: Any) -> int | None:
    """The shortest stretch of tokens that a layer of the model looks at, by its configuration; None: all of them."""
    text = config.get_text_config()
    found = [getattr(text, key, None) for key in WINDOW_KEYS]
    return min((window for window in found if isinstance(window, int) and window > 0), default=None)


@torch.no_grad()
def plain_logprobs(model: Any, rows: Sequence[ProbeRow]) -> list[Tensor]:
    """Of each row's compared tokens: the forward pass over the row alone, without cache, padding or packing."""
    keeps_some = "logits_to_keep" in inspect.signature(model.forward).parameters
    found = []
    for row in rows:
        options = (
            {"logits_to_keep": len(row.tokens) - row.start + 1} if keeps_some else {}
        )  # a large vocabulary is costly
        logits = model(torch.tensor([row.tokens], device=model.device), **options).logits[0]
        targets = torch.tensor(row.tokens[row.start :], device=logits.device)
        logprobs = torch.log_softmax(logits[-len(targets) - 1 : -1].float(), dim=-1)
        found.append(logprobs.gather(-1, targets[:, None])[:, 0].cpu())
    return found


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> LogprobDifference:
    """Of the rows' log-probabilities."""
    worst = LogprobDifference(0.0, 0.0, row=0, token=0)
    total, size, count = 0.0, 0.0, 0
    for index, (mine, other) in enumerate(zip(found, expected, strict=True)):
        apart = (mine.detach().float() - other.detach().float()).abs().nan_to_num(nan=torch.inf)
        total, size = total + float(apart.sum()), size + float(other.detach().float().abs().sum())
        count += len(apart)
        if len(apart) and float(apart.max()) >= worst.worst:
            worst = LogprobDifference(float(apart.max()), 0.0, row=index, token=int(apart.argmax()))
    count = max(1, count)
    return LogprobDifference(worst.worst, total / count, row=worst.row, token=worst.token, size=size / count)


def require_agreement(
    found: Sequence[Tensor], rows: Sequence[ProbeRow], expected: Sequence[Tensor], *, dtype: torch.dtype, who: str
) -> LogprobDifference:
    """Raise `ProbeError` beyond the tolerance of the dtype that is computed in."""
    apart = difference(found, expected)
    if not apart.is_within(TOLERANCES[dtype]):
        row, allowed = rows[apart.row], TOLERANCES[dtype].at(apart.size)
        raise ProbeError(
            f"{who} differs from transformers' plain forward pass by up to {apart.worst:.3g} nats, {apart.mean:.2g} in "
            f"the mean, at token {row.start + apart.token} of a row of {len(row.tokens)}; expected at most "
            f"{allowed.worst:.3g} and {allowed.mean:.2g} in {str(dtype).removeprefix('torch.')}"
        )
    return apart
