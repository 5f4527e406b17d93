"""The memory of a vLLM engine while it sleeps: freed and restored around the learner's training step.

On a GPU these are vLLM's own levels: 1 takes the weights to the host, 2 drops them; both drop the KV caches. What level
2 drops comes with the next weights alone, so the scheduler stays paused until those are in use. On a CPU vLLM ignores a
sleep; there the workers free the memory of the KV caches, and the weights stay.
"""

import asyncio

from vllm.v1.engine.async_llm import AsyncLLM

from services.generation.vllm_engine.slots import Slots

OFFLOADED, DROPPED = 1, 2
"""vLLM's levels, by what becomes of the weights."""


class EngineMemory:
    """Of one engine; asleep between `free` and `restore_kv_cache`."""

    def __init__(self, core: AsyncLLM, *, on_cpu: bool) -> None:
        self._core = core
        self._on_cpu = on_cpu
        self.is_asleep = False
        self.num_free = 0
        """Bytes that it has given back on a CPU; of a GPU's vLLM logs them."""

    async def free(self, slots: Slots, *, keeps_weights: bool, waits: bool) -> None:
        """Give the memory back; vLLM's requests are held, and no window gets a slot, until the slots are opened.

        `waits`: for the running windows to end. It is finished once it has begun.
        """
        async with slots.closed(when_all_are_free=waits):
            freeing = asyncio.create_task(self._free(keeps_weights=keeps_weights))
            try:
                await asyncio.shield(freeing)
            except asyncio.CancelledError:
                await asyncio.wait([freeing])
                raise
            finally:
                if self.is_asleep:
                    slots.close()

    async def _free(self, *, keeps_weights: bool) -> None:
        if self._on_cpu:
            await self._core.pause_generation(mode="keep", clear_cache=True)
            self.num_free = sum(await self._core.collective_rpc("free_kv_cache"))
        else:
            await self._core.sleep(level=OFFLOADED if keeps_weights else DROPPED, mode="keep")
        self.is_asleep = True

    async def restore_weights(self) -> None:
        """Room for the next ones; what lies there is not to be used."""
        if self.is_asleep and not self._on_cpu:
            await self._core.wake_up(tags=["weights"])

    async def restore_kv_cache(self) -> None:
        """Room for keys and values; on a GPU that wakes the scheduler, so the weights are in use by now."""
        if not self.is_asleep:
            return
        if self._on_cpu:
            await self._core.collective_rpc("restore_kv_cache")
        else:
            await self._core.wake_up(tags=["kv_cache"])
        self.is_asleep = False
