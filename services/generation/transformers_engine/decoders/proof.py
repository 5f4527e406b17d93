"""Whether a decoder computes what transformers does: the rows of the probe through its own decode path."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.generation.transformers_engine.decoders.decoder import Decoder
from tppo.models import probe
from tppo.weight_probe import ProbeRow


def require_agreement(
    decoder: Decoder, model: Any, rows: Sequence[ProbeRow], *, dtype: torch.dtype, num_slots: int | None = None
) -> probe.LogprobDifference:
    """Hold a decoder without rows against `model`, which has its weights. Raises `ProbeError`."""
    rows = [*rows, *with_longer_prefixes(rows)]
    expected = probe.plain_logprobs(model, rows)
    found = decoded_logprobs(decoder, rows, num_slots=num_slots or len(rows), device=model.device)
    return probe.require_agreement(found, rows, expected, dtype=dtype, who="the engine")


def with_longer_prefixes(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    """The short rows again, of which less is decoded: prefixes of several lengths are prefilled beside each other."""
    short = [row for row in rows if len(row.tokens) <= max(probe.SHORT_LENGTHS)]
    return [ProbeRow.of(row.tokens, num_compared=max(1, len(row.tokens) // 3)) for row in short]


def decoded_logprobs(
    decoder: Decoder, rows: Sequence[ProbeRow], *, num_slots: int, device: torch.device
) -> list[Tensor]:
    """Of each row's compared tokens: its prefix is prefilled, and they are decoded one after the other.

    Half of the rows begin, the others join them, and each leaves at its own end, as in continuous batching.
    """
    forced = [_Forced(row) for row in rows]
    waiting, running = deque(forced), list[_Forced]()
    while waiting or running:
        num_wanted = num_slots if any(row.logprobs for row in forced) else max(1, num_slots // 2)
        ended = [place for place, row in enumerate(running) if row.has_ended]
        arriving = [waiting.popleft() for _ in range(min(len(waiting), num_wanted - len(running) + len(ended)))]
        if ended or arriving:
            order = decoder.exchange(ended, [row.prefix for row in arriving])
            running = [(running + arriving)[index] for index in order]
        if running:
            _step(decoder, running, device)
    decoder.reset()
    return [torch.stack(row.logprobs).cpu() for row in forced]


@dataclass(slots=True)
class _Forced:
    """A row whose tokens are decoded whatever is likely."""

    row: ProbeRow
    logprobs: list[Tensor] = field(default_factory=list)

    @property
    def prefix(self) -> Sequence[int]:
        return self.row.tokens[: self.row.start]

    @property
    def has_ended(self) -> bool:
        return self.place == len(self.row.tokens)

    @property
    def place(self) -> int:
        """Of the token that is decoded next."""
        return self.row.start + len(self.logprobs)


def _step(decoder: Decoder, running: Sequence[_Forced], device: torch.device) -> None:
    last = torch.tensor([row.row.tokens[row.place - 1] for row in running], device=device)
    following = torch.tensor([row.row.tokens[row.place] for row in running], device=device)
    logprobs = torch.log_softmax(decoder.step(last).float(), dim=-1).gather(-1, following[:, None])
    for row, logprob in zip(running, logprobs[:, 0], strict=True):
        row.logprobs.append(logprob.clone())
