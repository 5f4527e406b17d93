"""vLLM as the request handler sees it. vLLM computes in processes of its own; this side hands over windows and weights.

Each window is one request of `max_tokens` that continues from token ids. A weight update holds new windows back,
pauses vLLM with its requests kept, lets its workers read the new tensors from shared memory, and resumes; vLLM names
the weights of each token. An update that fails half-way leaves a model that nobody trained: it serves nothing more.
"""

import asyncio
import itertools
import logging
import math
import secrets
from collections.abc import Sequence
from itertools import chain

from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from services.generation.engine import CrossedRow, EngineFailedError, EngineStatistics, OnTokens, ProbeAnswer
from services.generation.requests import check_request, empty_window
from services.generation.update_policy import UpdatePolicy
from services.generation.vllm_engine.engine_arguments import engine_arguments, first_sentence, is_on_cpu
from services.generation.vllm_engine.engine_memory import EngineMemory
from services.generation.vllm_engine.probing import Probing
from services.generation.vllm_engine.slots import GivenUpError, Slots
from services.generation.vllm_engine.step_counts import StepCounts
from services.generation.vllm_engine.weight_sources import AdapterFiles, WholeWeights
from services.generation.vllm_engine.window_row import WeightLabel, WindowRow
from tppo.config import Config, ConfigError
from tppo.rollout import Window, WindowRequest
from tppo.weight_probe import ProbeRow
from tppo.weights import WeightUpdate

log = logging.getLogger(__name__)

STREAM_INTERVAL = 16  # tokens between two messages about a window that nobody reads along
CLOSE_SECONDS = 1.0  # for vLLM's processes, which are killed then


class VllmEngine:
    """An `Engine` on vLLM's `AsyncLLM`."""

    def __init__(
        self,
        core: AsyncLLM,
        counts: StepCounts,
        *,
        num_slots: int,
        capacity: int,
        source: WholeWeights | AdapterFiles,
        policy: UpdatePolicy,
        has_seeds: bool,
    ) -> None:
        """`source` of weight updates; `has_seeds`: each window draws numbers of its own."""
        self._core = core
        self._counts = counts
        self._capacity = capacity
        self._vocabulary_size: int = core.model_config.get_vocab_size()
        self._source = source
        self.policy = policy
        self.has_seeds = has_seeds
        self._slots = Slots(num_slots)
        self._memory = EngineMemory(core, on_cpu=is_on_cpu())
        self._label = WeightLabel(-1, -1)
        self._probing = Probing(core, lambda: self._label, capacity=capacity)
        self._under_way: dict[tuple[str, int], WindowRow] = {}
        self._rows: dict[str, WindowRow] = {}  # those that vLLM has, by request id
        self._taken_back: set[str] = set()
        self._numbers = itertools.count()
        self._updating = asyncio.Lock()
        self._failure: EngineFailedError | None = None
        self._is_poisoned = False  # numbers that are not finite were left in KV caches

    @property
    def num_slots(self) -> int:
        """Windows that run at once."""
        return self._slots.num_slots

    @property
    def policy_version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        return self._label.policy_version

    @property
    def holds_windows_back(self) -> bool:
        """Whether new weights are being brought into use, or were never there."""
        return not self._slots.is_open

    async def generate(self, request: WindowRequest, on_tokens: OnTokens | None = None) -> Window:
        """The window, when it has ended; waits for a slot, and for the first weights."""
        check_request(request, capacity=self._capacity, vocabulary_size=self._vocabulary_size)
        if request.max_new_tokens == 0:
            return empty_window(request)
        row = self._under_way[request.key] = WindowRow(request, on_tokens)
        try:
            async with self._slots.place(row) as row.slot:
                with self._counts.running(row):
                    await self._extend(row)
        except GivenUpError:
            assert row.is_cut
        finally:
            if self._under_way.get(request.key) is row:
                del self._under_way[request.key]
        self._counts.prefilled(row.num_prefilled, num_shared=row.num_shared)
        self._is_poisoned |= not row.is_sound
        return row.window()

    async def cut(self, rollout_id: str, window_index: int) -> None:
        """Let the window end with what it has, or while it waits for a slot."""
        if (row := self._under_way.get((rollout_id, window_index))) is None:
            return
        row.is_cut = True
        self._slots.give_up(row)
        await self._core.abort([request_id for request_id, one in self._rows.items() if one is row])

    async def probe(self, rows: Sequence[ProbeRow], *, temperature: float = 1.0) -> ProbeAnswer:
        """As requests beside those of the windows."""
        answer = await self._probing.answer(rows, temperature)
        self._is_poisoned |= not all(map(math.isfinite, chain.from_iterable(answer.logprobs)))
        return answer

    async def probe_across_update(
        self, rows: Sequence[ProbeRow], crossing: int, *, temperature: float = 1.0
    ) -> CrossedRow:
        """It samples freely, and begins when the tensors are there; the others are to be requested after the update."""
        return await self._probing.answer_across_update(rows[crossing], temperature)

    async def update_weights(self, update: WeightUpdate) -> str:
        """Digest of what is loaded, when it is in use."""
        async with self._updating:
            label = WeightLabel(update.incarnation, update.policy_version)
            path = await asyncio.to_thread(self._source.prepared, update)
            async with self._slots.closed(when_all_are_free=not self.policy.in_flight):
                self._raise_failure()
                await _finished(asyncio.create_task(self._switch(label, path)))
        await asyncio.to_thread(update.free, update.tensors.keys())  # vLLM has a copy
        return update.digest

    @property
    def is_asleep(self) -> bool:
        """Whether its memory is free, until the next weights are in use."""
        return self._memory.is_asleep

    async def sleep(self, *, keeps_weights: bool) -> None:
        """Holds new windows back until the next weights are in use, and vLLM's requests with them."""
        async with self._updating:
            self._raise_failure()
            if not self.is_asleep:
                keeps = keeps_weights or isinstance(self._source, AdapterFiles)  # what comes next has no body
                await self._memory.free(self._slots, keeps_weights=keeps, waits=not self.policy.in_flight)

    def statistics(self) -> EngineStatistics:
        """What it has done and does."""
        return self._counts.statistics(num_slots=self.num_slots, num_waiting=self._slots.num_waiting)

    async def close(self) -> None:
        """Stop; windows that still run are cancelled."""
        self._failure = self._failure or EngineFailedError("the engine was closed")
        if self._core.output_handler is not None:
            self._core.output_handler.cancel()  # or it reports the end of vLLM's processes as a failure
        await asyncio.to_thread(self._core.shutdown, CLOSE_SECONDS)
        self._source.close()

    async def _extend(self, row: WindowRow) -> None:
        """Stream the window; a request that an update took back is sent again once the new weights are in use."""
        while not row.has_ended:
            await self._slots.until_open()
            self._raise_failure()
            if row.is_cut:
                break
            request_id = f"{row.request.rollout_id}/{row.request.window_index}/{next(self._numbers)}"
            self._rows[request_id] = row
            try:
                await self._stream(row, request_id)
                self._raise_failure()
                if not row.has_ended and request_id not in self._taken_back:
                    raise RuntimeError(f"vLLM ended a request with {row.finish_reason!r}; expected stop or length")
            finally:
                del self._rows[request_id]
                self._taken_back.discard(request_id)

    async def _stream(self, row: WindowRow, request_id: str) -> None:
        prompt = {"prompt_token_ids": row.before(), "cache_salt": self._label.salt()}
        try:
            async for output in self._core.generate(prompt, self._parameters(row), request_id):
                self._counts.sampled(row.take(output))
                if row.is_cut and row.finish_reason is None:  # cut before vLLM had the request
                    await self._core.abort(request_id)
        except VLLMValidationError as error:
            raise ValueError(str(error)) from None

    def _parameters(self, row: WindowRow) -> SamplingParams:
        return SamplingParams(
            max_tokens=row.num_left,
            temperature=row.request.temperature,
            stop_token_ids=list(row.request.stop_token_ids),
            ignore_eos=True,  # the request names the tokens that end it
            seed=row.seed if self.has_seeds else None,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=STREAM_INTERVAL if row.on_tokens is None else 1,
        )

    async def _switch(self, label: WeightLabel, path: str) -> None:
        """From the pause to the first token of the new weights; to be finished once it has begun."""
        was_asleep = self.is_asleep
        if self.policy.in_flight and not was_asleep:
            await self._probing.begin_crossings()
        recomputes = self.policy.recompute_cache or self._is_poisoned or was_asleep or not self._rows
        try:
            await self._core.pause_generation(mode="keep", clear_cache=recomputes)
            await self._memory.restore_weights()
            if not recomputes:
                await self._take_back_unbegun()
            if self._is_poisoned and not was_asleep:
                await self._core.collective_rpc("zero_kv_caches")
            self._is_poisoned = False
            if self.policy_version < 0:
                seed = {"seed": self._core.model_config.seed}
                await self._core.init_weight_transfer_engine(WeightTransferInitRequest(init_info=seed))
            await self._core.start_weight_update()
            await self._source.load(self._core, path)
            await self._core.finish_weight_update(label.text())
            await self._memory.restore_kv_cache()
            await self._core.resume_generation()
        except Exception as error:
            await self._fail(error)
            raise EngineFailedError(f"vLLM failed in a weight update: {error}") from error
        if not recomputes:
            for request_id in self._rows.keys() - self._taken_back:
                self._rows[request_id].keep_cache(self.policy_version, label.policy_version)
        else:
            self._counts.prefilled(sum(row.num_before for row in self._rows.values()))
        for _ in range((self.policy_version < 0) + was_asleep):  # each of them keeps windows out
            self._slots.open()
        self._label = label

    async def _take_back_unbegun(self) -> None:
        """Requests of which nothing is sampled yet shall not begin on KV caches that the old weights filled."""
        unbegun = [request_id for request_id, row in self._rows.items() if not row.tokens]
        self._taken_back.update(unbegun)
        await self._core.abort(unbegun)

    async def _fail(self, error: Exception) -> None:
        """Nothing is served any more: the weights may be half old and half new."""
        log.error("the weights are not to be used after a failed update: %s", error)
        self._failure = EngineFailedError(f"vLLM failed in a weight update: {error}")
        await self._core.abort(list(self._rows))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise EngineFailedError(str(self._failure)) from self._failure


async def _finished(task: "asyncio.Task[None]") -> None:
    """Await the task to its end, even where the waiting is cancelled; then the cancellation goes on."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def start_engine(config: Config) -> VllmEngine:
    """Starts vLLM's processes, in half a minute or so; not on an event loop, as what belongs to one begins with the
    first call. ConfigError: it refuses the model or its arguments.
    """
    num_slots = config.generation.num_slots
    counts = StepCounts()
    arguments = engine_arguments(config, seed=secrets.randbits(31))
    try:
        core = AsyncLLM.from_engine_args(arguments, stat_loggers=[counts.logger_of_engine])
    except ValueError as error:
        raise ConfigError(f"generation.engine = 'vllm': {first_sentence(error)}") from None
    source: WholeWeights | AdapterFiles = WholeWeights(config.model.path)
    if config.actor.lora_rank:
        source = AdapterFiles(config.model.path)
        core = source.adapting(core)
    return VllmEngine(
        core,
        counts,
        num_slots=num_slots,
        capacity=arguments.max_model_len,
        source=source,
        policy=UpdatePolicy(
            in_flight=config.generation.weight_update == "in_flight",
            recompute_cache=config.generation.recompute_cache_on_update,
        ),
        has_seeds=config.generation.seeds,
    )
