"""What the engine has done, read from vLLM's steps and from the windows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean
from typing import Any

from services.generation.engine import EngineStatistics
from services.generation.vllm_engine.window_row import WindowRow


class StepCounts:
    """Counts since the start; vLLM calls it once per step, as one of its statistics loggers."""

    def __init__(self) -> None:
        self._num_tokens = self._num_prefilled = self._num_shared = self._num_steps = self._num_slot_steps = 0
        self._kv_cache_use: dict[int, float] = {}  # of each of vLLM's engines
        self._rows: list[WindowRow] = []
        self._busy_seconds = 0.0
        self._busy_since = 0.0

    def logger_of_engine(self, vllm_config: Any, engine_index: int = 0) -> "StepCounts":
        """What vLLM calls for each of its engines to get a logger."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, engine_idx: int = 0, **__: Any) -> None:
        """After a step of vLLM."""
        if scheduler_stats is not None:
            self._kv_cache_use[engine_idx] = scheduler_stats.kv_cache_usage
        if iteration_stats is None or not iteration_stats.num_generation_tokens:
            return
        if any(not row.request.is_evaluation for row in self._rows):
            self._num_steps += 1
            self._num_slot_steps += iteration_stats.num_generation_tokens

    def log(self) -> None:
        """Part of vLLM's interface; the heartbeat reports instead."""

    def log_engine_initialized(self) -> None:
        """Part of vLLM's interface; the process logs that it serves."""

    @contextmanager
    def running(self, row: WindowRow) -> Iterator[None]:
        """The row runs within."""
        if not self._rows:
            self._busy_since = time.perf_counter()
        self._rows.append(row)
        try:
            yield
        finally:
            self._rows.remove(row)
            if not self._rows:
                self._busy_seconds += time.perf_counter() - self._busy_since

    def sampled(self, num_tokens: int) -> None:
        """So many tokens came."""
        self._num_tokens += num_tokens

    def prefilled(self, num_tokens: int, *, num_shared: int = 0) -> None:
        """So many tokens were brought into KV caches, and so many were found there."""
        self._num_prefilled += num_tokens
        self._num_shared += num_shared

    def statistics(self, *, num_slots: int, num_waiting: int) -> EngineStatistics:
        """All of it."""
        busy_now = time.perf_counter() - self._busy_since if self._rows else 0.0
        return EngineStatistics(
            num_slots=num_slots,
            num_active=len(self._rows),
            num_waiting=num_waiting,
            num_tokens_generated=self._num_tokens,
            num_decode_steps=self._num_steps,
            num_active_slot_steps=self._num_slot_steps,
            num_prefill_tokens=self._num_prefilled,
            num_shared_prefill_tokens=self._num_shared,
            busy_seconds=self._busy_seconds + busy_now,
            kv_cache_use=mean(self._kv_cache_use.values()) if self._kv_cache_use else None,
            running=tuple(row.running() for row in self._rows),
        )
