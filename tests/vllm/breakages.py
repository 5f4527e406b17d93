"""What a worker of vLLM does wrong once one of these was called in it, and how it is mended again.

They run inside vLLM's process, to which they are sent by name.
"""

from typing import Any

import torch

from services.generation.vllm_engine import worker

KEPT: dict[str, Any] = {}  # of this process: what was there before


def leave_the_head(_: Any) -> None:
    """The head that shares the embedding's weights stays that of before."""
    KEPT["tie_head"] = worker.tie_head
    worker.tie_head = lambda model: None


def tie_the_head(_: Any) -> None:
    worker.tie_head = KEPT["tie_head"]


def ignore_temperature(of_worker: Any) -> None:
    sampler = type(of_worker.model_runner.sampler)
    KEPT["apply_temperature"] = vars(sampler)["apply_temperature"]
    sampler.apply_temperature = staticmethod(lambda logits, *_: logits)


def heed_temperature(of_worker: Any) -> None:
    type(of_worker.model_runner.sampler).apply_temperature = KEPT["apply_temperature"]


def read_half(_: Any) -> None:
    """A loader that ends after half of the tensors, without an error."""
    receive = KEPT["receive"] = worker.FileWeights.receive_weights

    def received(self: Any, update_info: Any) -> None:
        load = self.model.load_weights
        self.model.load_weights = lambda weights: load(list(weights)[::2])
        try:
            receive(self, update_info)
        finally:
            del self.model.load_weights

    worker.FileWeights.receive_weights = received  # type: ignore[method-assign]


def read_all(_: Any) -> None:
    worker.FileWeights.receive_weights = KEPT["receive"]  # type: ignore[method-assign]


def lose_buffers(of_worker: Any) -> None:
    """What sleep of level 2 leaves of them, once the weights have come again."""
    buffers = dict(of_worker.model_runner.model.named_buffers())
    KEPT["buffers"] = {name: buffer.clone() for name, buffer in buffers.items()}
    for buffer in buffers.values():
        buffer.zero_()


@torch.inference_mode()
def restore_buffers(of_worker: Any) -> None:
    for name, buffer in of_worker.model_runner.model.named_buffers():
        buffer.copy_(KEPT["buffers"][name])
