"""Inside vLLM's worker processes: weights out of a mapped file, by vLLM's own protocol for weight updates.

vLLM imports this module in each worker, because the engine names `WorkerExtension` as its extension; that registers the
backend. Not imported anywhere else: without vLLM it cannot be.
"""

import os
import re
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from services.generation.transformers_engine.decoders.model_weights import named_weights, new_model
from services.generation.vllm_engine.engine_arguments import BACKEND, GENERATOR_PID


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Once, before the first weights."""

    seed: int  # of the draws of requests without a seed; the replicas of data parallelism draw apart


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One update."""

    path: str  # of a file in the safetensors layout


class FileWeights(WeightTransferEngine[InitInfo, UpdateInfo]):  # type: ignore[misc]
    """Reads each tensor where the file is mapped; nothing of it crosses a pipe."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        torch.manual_seed(init_info.seed + self.parallel_config.data_parallel_index)
        self._joined = joined_model(self.model_config.hf_config)

    def start_weight_update(self) -> None:
        """What comes may be an adapter, which vLLM loads by itself."""
        self._is_reloading = False

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """The base class's waits for an accelerator, which a CPU is none of."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        initialize_layerwise_reload(self.model)
        self._is_reloading = True
        with safe_open(update_info.path, framework="pt") as file:
            self.model.load_weights(folder_tensors(file, self._joined))

    def finish_weight_update(self) -> None:
        if not self._is_reloading:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            pack_experts(self.model)
        tie_head(self.model)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def joined_model(config: Any) -> Any:
    """The model of transformers, without weights, where it joins tensors of a model's folder; None where it joins none.

    So the experts of a layer are joined in what the learner sends, where vLLM expects them as they are in the folder.
    """
    with torch.device("meta"):
        model = new_model(config, torch.float32)
    own = named_weights(model)
    return None if revert_weight_conversion(model, dict(own)).keys() == own.keys() else model


def folder_tensors(file: Any, joined: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """As a model's folder has them, layer by layer: what is taken apart is copied, never more than a layer at once."""
    for _, names in groupby(sorted(file.keys(), key=layer_of), layer_of):
        tensors = {name: file.get_tensor(name) for name in names}
        yield from (tensors if joined is None else revert_weight_conversion(joined, tensors)).items()


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to, by its name; empty outside of them."""
    found = re.match(r".*?\.\d+\.", name)
    return found.group() if found else ""


def pack_experts(model: Any) -> None:
    """On a CPU the kernel of a mixture of experts reads packed weights; a reload packs none, without an error."""
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(layer)


def tie_head(model: Any) -> None:
    """Let a head that shares the embedding's weights compute with the new ones.

    A reload skips the head as it is in no file; on a CPU it then keeps a packed copy of the old embedding, without an
    error.
    """
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    head, embedding = getattr(model, "lm_head", None), getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embedding is None or not hasattr(head, "weight"):
        return
    head.weight = embedding.weight
    if head.weight.device.type == "cpu":
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def end_with_generator() -> None:
    """Let vLLM's processes die with the generator's, however that ends: they would compute on for nobody."""
    generator = os.environ[GENERATOR_PID]
    try:
        descriptor = os.pidfd_open(int(generator))
    except ProcessLookupError:
        _kill_all_of(generator)
    else:
        threading.Thread(target=_kill_at_end, args=(descriptor, generator), daemon=True).start()


def _kill_at_end(descriptor: int, generator: str) -> None:
    ends = select.poll()
    ends.register(descriptor, select.POLLIN)
    ends.poll()
    _kill_all_of(generator)


def _kill_all_of(generator: str) -> None:
    """Engine cores, workers, the coordinator of data parallelism: all that inherited the generator's mark."""
    mark = f"{GENERATOR_PID}={generator}".encode()
    others = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid()]
    for pid in [*others, os.getpid()]:
        with suppress(OSError):  # it has ended, or is somebody else's
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)


class WorkerExtension:
    """What vLLM's worker can do besides; and that vLLM imports its module registers the backend."""

    model_runner: Any  # the worker's

    def zero_kv_caches(self) -> None:
        """Attention multiplies what is beyond a row's end by 0, which leaves a NaN there what it is."""
        for cache in self.model_runner.kv_caches:
            cache.zero_()

    def free_kv_cache(self) -> int:
        """On a CPU, where vLLM has no sleep: the tensors stay, without their memory. Bytes that are free now."""
        return sum(_resized(memory, 0) for memory in self._kv_memory())

    def restore_kv_cache(self) -> None:
        """New memory for them, of zeros, as in the beginning."""
        for memory, num_bytes in self._kv_sizes.items():
            memory.resize_(num_bytes)
        self.zero_kv_caches()

    def _kv_memory(self) -> list[Any]:
        caches = [cache for cache in self.model_runner.kv_caches if isinstance(cache, torch.Tensor)]
        found = {cache.untyped_storage().data_ptr(): cache.untyped_storage() for cache in caches}
        self._kv_sizes = {memory: memory.nbytes() for memory in found.values()}
        return list(found.values())


def _resized(memory: Any, num_bytes: int) -> int:
    before = memory.nbytes()
    memory.resize_(num_bytes)
    return int(before - num_bytes)


WeightTransferEngineFactory.register_engine(BACKEND, FileWeights)
if GENERATOR_PID in os.environ:
    end_with_generator()
