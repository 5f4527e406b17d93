"""Which rows decode together, step by step, when slots are refilled in one way or another; and what that costs.

A decode step reads the weights once and each row's KV cache once. So the operations for a byte, the arithmetic
intensity, rise with the rows of a step and fall with the length of their caches. Both follow from the lengths of the
responses and the way in which slots are refilled; nothing here is measured.
"""

import heapq
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tppo.codec import decode_inbox_record
from tppo.rollout import FinishReason, Window

HEADER = struct.Struct("<QQII")  # of a record in an archived inbox
PROMPT_LENGTH = 8
Piece = tuple[int, int]
"""A window: tokens in the KV cache before its first one, and how many it has."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Decode steps with the same rows."""

    num_steps: int
    num_rows: int
    num_cached: float
    """Tokens in the caches of all rows, the step's own included; mean over the steps."""


def recorded_lengths(inbox: bytes, *, limit: int) -> list[int]:
    """Of the responses that an archived inbox holds whole, in the order in which they were begun."""
    began: dict[str, float] = {}
    lengths: dict[str, int] = {}
    finished: set[str] = set()
    place = 0
    while place < len(inbox):
        *_, size, _ = HEADER.unpack_from(inbox, place)
        place += HEADER.size + size
        record = decode_inbox_record(inbox[place - size : place])
        if not isinstance(record, Window) or record.is_evaluation:
            continue
        name = record.rollout_id
        if record.window_index == 0:
            began[name] = record.started_at
        lengths[name] = lengths.get(name, 0) + len(record.tokens)
        if record.finish_reason is FinishReason.STOP or lengths[name] >= limit:
            finished.add(name)
    return [lengths[name] for name in sorted(began, key=lambda name: began[name]) if name in finished]


def cohorts(lengths: Iterable[int], *, num_rows: int, window: int | None = None) -> Iterator[list[Piece]]:
    """The rows of each step where slots are refilled at its border: whole responses, or windows.

    Responses that are not finished go on first. The last ones, which fill no step, are left out.
    """
    waiting = deque((PROMPT_LENGTH, length) for length in lengths)
    going_on: list[Piece] = []
    while len(going_on) + len(waiting) >= num_rows:
        rows = going_on + [waiting.popleft() for _ in range(num_rows - len(going_on))]
        pieces = [(cached, min(left, window or left)) for cached, left in rows]
        yield pieces
        going_on = [
            (cached + num, left - num) for (cached, left), (_, num) in zip(rows, pieces, strict=True) if left > num
        ]


def without_refill(pieces: Sequence[Piece]) -> Iterator[Batch]:
    """Slots of rows that have ended stay empty until the longest has."""
    running = sorted(pieces, key=lambda piece: piece[1])
    done = 0
    for place, (_, length) in enumerate(running):
        if length > done:
            rows = running[place:]
            cached = sum(cached for cached, _ in rows) + len(rows) * (done + length - 1) / 2
            yield Batch(length - done, len(rows), cached)
            done = length


def refilled(lengths: Iterable[int], *, num_slots: int, window: int | None = None) -> Iterator[Batch]:
    """Slots are refilled at once, as long as responses are there; a response's next window takes its turn.

    As many windows wait as run.
    """
    responses = iter(lengths)
    queue: deque[Piece] = deque((PROMPT_LENGTH, length) for length in islice(responses, 2 * num_slots))
    running: list[tuple[int, int, int]] = []  # a heap: when it ends, its cached tokens were it begun at 0, what is left
    now = total = 0
    while True:
        while queue and len(running) < num_slots:
            cached, left = queue.popleft()
            num = min(left, window or left)
            heapq.heappush(running, (now + num, cached - now, left - num))
            total += cached - now
        if len(running) < num_slots:
            return
        end = running[0][0]
        yield Batch(end - now, len(running), total + len(running) * (now + end - 1) / 2)
        now = end
        while running and running[0][0] == now:
            _, offset, left = heapq.heappop(running)
            total -= offset
            following = (now + offset, left) if left else _next_response(responses)
            if following is None:
                return
            queue.append(following)


def _next_response(responses: Iterator[int]) -> Piece | None:
    length = next(responses, None)
    return None if length is None else (PROMPT_LENGTH, length)


@dataclass(frozen=True, slots=True)
class Network:
    """What a decode step of a model reads and computes."""

    num_weights: int
    """In the matrices that every token passes, the head included."""
    num_layers: int
    query_size: int
    """Heads times their size."""
    key_value_size: int
    """Heads of keys times their size."""
    bytes_each: int
    """Of a number."""

    @classmethod
    def of(cls, config: Any, *, bytes_each: int) -> "Network":
        """By a configuration of transformers, of the Llama kind."""
        query, key_value = (
            heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        hidden, inner = config.hidden_size, config.intermediate_size
        layer = hidden * (2 * query + 2 * key_value) + 3 * hidden * inner
        num_weights = config.num_hidden_layers * layer + hidden * config.vocab_size
        return cls(num_weights, config.num_hidden_layers, query, key_value, bytes_each)

    def operations(self, batch: Batch) -> float:
        """Of one step: a multiplication and an addition for each weight and row, and attention over the caches."""
        return 2 * self.num_weights * batch.num_rows + 4 * self.num_layers * self.query_size * batch.num_cached

    def bytes_read(self, batch: Batch) -> float:
        """Of one step: weights, and the keys and values in the caches."""
        return self.bytes_each * (self.num_weights + 2 * self.num_layers * self.key_value_size * batch.num_cached)


QWEN_32B = Network(
    num_weights=64 * (5120 * (2 * 5120 + 2 * 1024) + 3 * 5120 * 27648) + 5120 * 152064,
    num_layers=64,
    query_size=5120,
    key_value_size=1024,
    bytes_each=2,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a machine."""

    operations_per_second: float
    bytes_per_second: float

    def seconds(self, network: Network, batch: Batch) -> float:
        """The least that one step can take."""
        return max(
            network.operations(batch) / self.operations_per_second, network.bytes_read(batch) / self.bytes_per_second
        )

    def attainable(self, intensity: float) -> float:
        """Operations a second at so many operations a byte."""
        return min(self.operations_per_second, intensity * self.bytes_per_second)


H800 = Limits(989e12, 3.35e12)
"""Of one card, in bfloat16 without sparsity, by its data sheet."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Many batches together."""

    num_steps: int
    num_tokens: int
    num_cached: float
    operations: float
    bytes_read: float
    least_seconds: float

    @property
    def intensity(self) -> float:
        """Operations for a byte."""
        return self.operations / self.bytes_read


def together(batches: Iterable[Batch], network: Network, limits: Limits) -> Decoding:
    kept = list(batches)
    return Decoding(
        num_steps=sum(batch.num_steps for batch in kept),
        num_tokens=sum(batch.num_steps * batch.num_rows for batch in kept),
        num_cached=sum(batch.num_steps * batch.num_cached for batch in kept),
        operations=sum(batch.num_steps * network.operations(batch) for batch in kept),
        bytes_read=sum(batch.num_steps * network.bytes_read(batch) for batch in kept),
        least_seconds=sum(batch.num_steps * limits.seconds(network, batch) for batch in kept),
    )
