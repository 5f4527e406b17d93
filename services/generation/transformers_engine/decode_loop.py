"""The decode loop, in the thread that owns the model: continuous batching of windows, and their weights.

The loop
* consumes: what `submit`, `cancel` and `cut` queue, and the newest weights of `update`;
* waits for: work, while no window runs and none can be admitted; and for company, while few windows run;
* unblocked by: `submit`, `cut`, `update`, `close`; by the clock from waiting for company;
* produces: the results of the futures. A slot whose window has ended is filled before the next token.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from services.generation.engine import EngineStatistics
from services.generation.transformers_engine.batch import Batch
from services.generation.transformers_engine.decode_row import DecodeRow
from services.generation.transformers_engine.decoders.decoder import Decoder
from services.generation.transformers_engine.pending import Gathering, PendingSleep, PendingUpdate
from services.generation.update_policy import UpdatePolicy

CLOSE_SECONDS = 1.0  # for a pass of the model that is under way; a prefill of many long rows takes minutes on a CPU
log = logging.getLogger(__name__)


class DecodeLoop:
    """Runs in a thread of its own; the public methods may be called from any other."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        num_slots: int,
        policy: UpdatePolicy,
        device: torch.device,
        gather_seconds: float = 0.0,
    ) -> None:
        """`gather_seconds`: how long windows stand still at most, while they fill less than half of the slots."""
        self.num_slots = num_slots
        self._policy = policy
        self._gathering = Gathering(gather_seconds)
        self._batch = Batch(decoder, num_slots=num_slots, device=device)
        self._waiting: deque[DecodeRow] = deque()
        self._probing: deque[DecodeRow] = deque()  # rows of a probe, which wait for no slot
        self._crossing: deque[DecodeRow] = deque()  # rows of a probe that the next update is to meet in mid-way
        self._following: deque[DecodeRow] = deque()  # those that begin with it
        self._cancelled: deque[DecodeRow] = deque()
        self._cuts: deque[DecodeRow] = deque()
        self._update: PendingUpdate | None = None  # one slot: each holds a whole copy of the weights
        self._sleep: PendingSleep | None = None
        self.is_asleep = False  # holds no KV cache, until the next weights are in use
        self._has_work = threading.Condition()
        self._is_closing = False
        self._failure: Exception | None = None
        self._busy_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def policy_version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        return self._batch.policy_version

    def submit(self, row: DecodeRow) -> None:
        """Queue a window."""
        with self._open():
            self._waiting.append(row)

    def probe(self, rows: Iterable[DecodeRow]) -> None:
        """Queue the rows of a probe."""
        with self._open():
            self._probing.extend(rows)

    def probe_across_update(self, crossing: DecodeRow, following: Iterable[DecodeRow]) -> None:
        """Queue a row that begins when the next update is ready, and has a token before it, and others that follow."""
        with self._open():
            self._crossing.append(crossing)
            self._following.extend(following)

    def cancel(self, row: DecodeRow) -> None:
        """Drop a window, wherever it stands."""
        self._cancelled.append(row)

    def cut(self, row: DecodeRow) -> None:
        """End a window with the tokens that it has, wherever it stands."""
        with self._has_work:
            self._cuts.append(row)
            self._has_work.notify()

    def update(self, pending: PendingUpdate) -> None:
        """Bring the weights into use at the next moment for it, instead of older ones that still wait."""
        with self._open():
            replaced, self._update = self._update, pending
            self._probing.extendleft(self._crossing)
            self._crossing.clear()
        if replaced is not None and replaced.future.set_running_or_notify_cancel():
            replaced.future.set_exception(RuntimeError("newer weights came before these were in use"))

    def sleep(self, *, keeps_weights: bool) -> "Future[None]":
        """Free KV caches, and weights, at the next moment for it; the future is resolved then."""
        with self._open():
            pending = self._sleep or PendingSleep(keeps_weights)
            if self.is_asleep:
                pending.future.set_result(None)
            else:
                self._sleep = pending
        return pending.future

    def give_up(self, pending: PendingUpdate) -> None:
        """Nobody awaits these weights any more."""
        with self._has_work:
            if self._update is pending:
                self._update = None
                self._has_work.notify()

    def close(self) -> None:
        """Cancel what is left and wait for the thread's end, but for `CLOSE_SECONDS` at most."""
        with self._has_work:
            self._is_closing = True
            self._has_work.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("closing in mid-pass of the model, which is not awaited")
            self._abandon()

    def statistics(self) -> EngineStatistics:
        """What it has done and does; rows of a probe are left out."""
        running = tuple(row.running() for row in self._batch.rows() if not row.forced)
        return EngineStatistics(
            num_slots=self.num_slots,
            num_active=len(running),
            num_waiting=len(self._waiting),
            num_tokens_generated=self._batch.num_tokens,
            num_decode_steps=self._batch.num_steps,
            num_active_slot_steps=self._batch.num_slot_steps,
            num_prefill_tokens=self._batch.num_prefilled,
            num_shared_prefill_tokens=max(0, self._batch.num_prefix_tokens - self._batch.num_prefilled),
            busy_seconds=self._busy_seconds,
            running=running,
        )

    @property
    def num_cached_tokens(self) -> int:
        """Of the running windows, in the KV cache."""
        return sum(row.num_tokens for row in self._batch.rows() if not row.forced)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Within, something is queued for the thread."""
        with self._has_work:
            if self._is_closing:
                raise RuntimeError("the decode loop has ended") from self._failure
            yield
            self._has_work.notify()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._await_work():
                    self._await_company()
                    started = time.perf_counter()
                    self._turn()
                    self._busy_seconds += time.perf_counter() - started
        except Exception as error:  # raised to everybody who waits for a window
            log.exception("the decode loop failed")
            self._failure = error
        finally:
            self._abandon()

    def _await_work(self) -> bool:
        """False when the loop is to end."""
        if self.is_asleep or not self._batch.num_running:
            with self._has_work:
                self._has_work.wait_for(self._has_something)
        return not self._is_closing

    def _has_something(self) -> bool:
        return self._is_due() or self._can_admit()

    def _is_due(self) -> bool:
        """Whether there is something that waits for no window."""
        is_due = self._is_closing or self._update is not None or self._sleep is not None or bool(self._cuts)
        return is_due or self._can_probe()

    def _await_company(self) -> None:
        """Where few windows run, let them stand still until half of the slots can be filled, or for a while."""
        if self._has_company():
            self._gathering.end()
        elif not self._batch.is_probing and (seconds := self._gathering.seconds_left()):
            with self._has_work:
                self._has_work.wait_for(lambda: self._is_due() or self._has_company(), seconds)

    def _has_company(self) -> bool:
        return 2 * (self._batch.num_running + len(self._waiting)) >= self.num_slots

    def _can_probe(self) -> bool:
        return bool(self._probing) and self.policy_version >= 0 and not self.is_asleep

    def _can_admit(self) -> bool:
        """Nothing is admitted while weights wait, as they wait for the running windows to end, nor beside a probe.

        Windows are held back until the probe has its answer, and a prefill of long rows would delay it.
        """
        can_begin = bool(self._waiting) and self._update is None and self.policy_version >= 0
        is_held = self.is_asleep or self._sleep is not None
        return can_begin and not is_held and not self._probing and not self._batch.is_probing

    def _turn(self) -> None:
        while self._cancelled:
            self._withdraw(self._cancelled.popleft())
        while self._cuts:
            self._end(self._cuts.popleft())
        begins_probe = self._admit_probe()
        if not begins_probe and (self._policy.in_flight or not self._batch.num_running):
            self._fall_asleep()
            self._load_newest()  # a row that is to cross the update has a token of the weights in use first
            self._admit_probe()  # those that follow it are prefilled with the rows whose caches are filled again
        while self._batch.num_free_slots and self._can_admit():
            self._batch.admit(self._waiting.popleft())
        if not self._is_closing and not self.is_asleep:
            self._batch.step()

    def _queues(self) -> Sequence[deque[DecodeRow]]:
        return self._waiting, self._probing, self._crossing, self._following

    def _admit_probe(self) -> bool:
        """Whether there were rows."""
        is_due = self._can_probe() and self._batch.num_free_probe_rows > 0
        while self._can_probe() and self._batch.num_free_probe_rows:
            self._batch.admit(self._probing.popleft())
        return is_due

    def _withdraw(self, row: DecodeRow) -> None:
        with self._has_work:  # others append
            for queued in self._queues():
                if row in queued:
                    queued.remove(row)
                    return
        self._batch.drop(row)

    def _end(self, row: DecodeRow) -> None:
        with self._has_work:  # others append
            if row in self._waiting:
                self._waiting.remove(row)
        if not row.future.done():
            self._batch.cut(row)

    def _fall_asleep(self) -> None:
        with self._has_work:
            pending, self._sleep = self._sleep, None
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return
        self._batch.sleep(keeps_weights=pending.keeps_weights)
        self.is_asleep = True
        pending.future.set_result(None)

    def _load_newest(self) -> None:
        with self._has_work:
            pending, self._update = self._update, None
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return
        had_weights = self.policy_version >= 0
        try:
            self._batch.load(pending.switch, pending.policy_version, recompute_cache=self._policy.recompute_cache)
        except Exception as error:
            pending.future.set_exception(error)
            if not isinstance(error, ValueError):  # half a switch: nothing more is to be served
                raise
        else:
            self.is_asleep = False
            self._gathering.is_worthwhile = had_weights
            with self._has_work:
                self._probing.extend(self._following)
                self._following.clear()
            pending.future.set_result(None)

    def _abandon(self) -> None:
        """Resolve every future: nothing else will."""
        with self._has_work:
            self._is_closing = True
            rows = chain(self._batch.rows(), *self._queues())
            futures: list[Future[Any]] = [row.future for row in rows]
            futures += [one.future for one in (self._update, self._sleep) if one]
            self._update = self._sleep = None
        for future in futures:
            if future.done():
                continue
            if self._failure is None:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                future.set_exception(RuntimeError(f"the decode loop failed: {self._failure}"))
