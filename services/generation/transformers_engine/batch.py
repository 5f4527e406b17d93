"""Continuous batching: the windows that run now as rows of the decoder, which come and go between decode steps."""

import heapq
from collections.abc import Iterable

import torch

from services.generation.transformers_engine.decode_row import DecodeRow
from services.generation.transformers_engine.decoders.decoder import NUM_PROBE_ROWS, Decoder, Switch
from services.generation.transformers_engine.sampling import Sampler
from tppo.process.event_loop import free_soon


class Batch:
    """The rows of the next decode step.

    `admit`, `drop` and `load` only note what changes; the next `step` makes all changes at once, so that a row that
    ends and the one that follows it cost the decoder one exchange.
    """

    def __init__(self, decoder: Decoder, *, num_slots: int, device: torch.device) -> None:
        self.policy_version = -1
        self.num_tokens = self.num_steps = self.num_slot_steps = self.num_prefix_tokens = 0
        self._decoder = decoder
        self._device = device
        self._rows: list[DecodeRow] = []  # in the decoder's order
        self._tokens: torch.Tensor  # [rows], the last token of each
        self._sampler: Sampler
        self._free_slots = list(range(num_slots))  # a heap: the lowest is given away first
        self._has_training_rows = False  # not only evaluations
        self._num_forced = 0  # of the rows, those of a probe
        self._leaving: set[int] = set()  # indices of rows
        self._arriving: list[DecodeRow] = []
        self._is_stale = False  # the KV caches were filled by older weights and are to be recomputed
        self._is_poisoned = False  # the KV caches hold numbers that are not finite, or were freed

    @property
    def num_free_slots(self) -> int:
        """How many rows can be admitted."""
        return len(self._free_slots)

    @property
    def num_prefilled(self) -> int:
        """Tokens that prefill has computed."""
        return self._decoder.num_prefilled

    @property
    def is_probing(self) -> bool:
        """Whether rows of a probe run."""
        return any(row.forced for row in self.rows())

    @property
    def num_free_probe_rows(self) -> int:
        """How many rows of a probe can be admitted."""
        return NUM_PROBE_ROWS - sum(bool(row.forced) for row in self.rows())

    @property
    def num_running(self) -> int:
        """Rows that the next step extends."""
        return len(self._rows) - len(self._leaving) + len(self._arriving)

    def admit(self, row: DecodeRow) -> None:
        """Refill a free slot with the row; one of a probe has a place of its own."""
        row.start(-1 if row.forced else heapq.heappop(self._free_slots))
        self._arriving.append(row)

    def drop(self, row: DecodeRow) -> None:
        """Take the slot away, if the row has one."""
        if row in self._arriving:
            self._arriving.remove(row)
            self._free(row)
        elif row in self._rows and self._rows.index(row) not in self._leaving:
            self._release(self._rows.index(row))

    def cut(self, row: DecodeRow) -> None:
        """End the row before its next token, with what it has."""
        row.is_cut = True
        row.close_span(self.policy_version)
        self.drop(row)
        row.resolve()

    def load(self, switch: Switch, policy_version: int, *, recompute_cache: bool) -> None:
        """Sample from the prepared weights from the next step on."""
        free_soon(switch())
        for row in self._staying():
            row.close_span(self.policy_version)
            row.keep_cache(self.policy_version)
        self.policy_version = policy_version
        self._is_stale |= recompute_cache

    def sleep(self, *, keeps_weights: bool) -> None:
        """Free the KV caches, and the weights unless they are kept; rows that stay are prefilled again."""
        self._decoder.reset()
        if not keeps_weights:
            self._decoder.drop_weights()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._is_poisoned = True

    def step(self) -> None:
        """Sample a token of every row, and resolve those that end."""
        if self._leaving or self._arriving or self._is_stale:
            self._exchange()
        if not self._rows:
            return
        tokens, logprobs = self._sampler.sample(self._decoder.step(self._tokens), self._forced_tokens())
        self._tokens = tokens
        num_sampled = len(self._rows) - self._num_forced
        self.num_tokens += num_sampled
        if self._has_training_rows:
            self.num_steps += 1
            self.num_slot_steps += num_sampled
        for index in self._append(tokens.tolist(), logprobs.tolist()):
            self._finish(index)

    def rows(self) -> list[DecodeRow]:
        """All that run, those of a probe too."""
        return [*self._staying(), *self._arriving]

    def _forced_tokens(self) -> torch.Tensor | None:
        if not self._num_forced:
            return None
        return torch.tensor([row.forced_token for row in self._rows], device=self._device)

    def _append(self, tokens: Iterable[int], logprobs: Iterable[float]) -> list[int]:
        """Indices of the rows that end with the new token."""
        ended = []
        for index, (row, token, logprob) in enumerate(zip(self._rows, tokens, logprobs, strict=True)):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if row.on_token is not None:
                row.on_token(token, logprob)
            if token in row.stop_tokens or len(row.tokens) == row.limit:
                ended.append(index)
        return ended

    def _finish(self, index: int) -> None:
        row = self._rows[index]
        row.close_span(self.policy_version)
        self._is_poisoned |= not row.is_sound
        self._release(index)
        row.resolve()

    def _release(self, index: int) -> None:
        self._leaving.add(index)
        self._free(self._rows[index])

    def _free(self, row: DecodeRow) -> None:
        if not row.forced:
            heapq.heappush(self._free_slots, row.slot)

    def _staying(self) -> list[DecodeRow]:
        return [row for index, row in enumerate(self._rows) if index not in self._leaving]

    def _exchange(self) -> None:
        """Let the decoder drop and prefill rows; those whose KV cache is stale or poisoned are prefilled again."""
        arriving = self._arriving
        if self._is_poisoned or self._is_stale:
            for row in self._staying():
                row.renew_cache(self.policy_version)
            arriving = self._staying() + arriving
            self._leaving = set(range(len(self._rows)))
        if self._is_poisoned:
            self._decoder.reset()
            self._rows, self._leaving = [], set()
        prefixes = [row.prefix() for row in arriving]
        self.num_prefix_tokens += sum(len(prefix) - 1 for prefix in prefixes)
        everyone = self._rows + arriving
        self._rows = [everyone[index] for index in self._decoder.exchange(sorted(self._leaving), prefixes)]
        self._leaving, self._arriving, self._is_poisoned, self._is_stale = set(), [], False, False
        self._prepare_sampling()

    def _prepare_sampling(self) -> None:
        self._num_forced = sum(bool(row.forced) for row in self._rows)
        self._has_training_rows = any(not row.request.is_evaluation for row in self._rows)
        self._tokens = torch.tensor([row.last_token for row in self._rows], dtype=torch.int64, device=self._device)
        self._sampler = Sampler(
            seeds=[row.request.seed for row in self._rows],
            positions=[row.num_tokens for row in self._rows],
            temperatures=[row.request.temperature for row in self._rows],
            device=self._device,
        )
