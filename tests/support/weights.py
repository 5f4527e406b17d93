"""Weights as a learner sends them, without a learner."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from tppo.rollout import logprobs
from tppo.weight_probe import ProbeRow, WeightProbe
from tppo.weights import MemoryFile, TensorLayout
from tppo.weights.manifest import Manifest, SharedMemory
from tppo.weights.messages import CHUNK_BYTES, chunk_message, manifest_message
from tppo.weights.tensor_digests import digests

PROBE = WeightProbe((ProbeRow((1, 2), (3,)),), (logprobs([-1.0]),), temperature=0.5)
"""As the fake engine answers."""


def manifest_of(
    tensors: Mapping[str, Tensor],
    policy_version: int = 1,
    *,
    incarnation: int = 0,
    run: str = "mine",
    shared: SharedMemory | None = None,
    algorithm: str = "blake3",
    probe: WeightProbe | None = PROBE,
) -> Manifest:
    found = digests(tensors, algorithm)
    return Manifest(
        run,
        incarnation,
        policy_version,
        found.text(),
        TensorLayout.of(tensors),
        found.of_tensors,
        shared=shared,
        probe=probe,
    )


def data_of(tensors: Mapping[str, Tensor]) -> memoryview:
    """The tensors' bytes, end to end."""
    return MemoryFile.holding(tensors).data


def chunks_of(data: memoryview, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    for begin in range(0, len(data), chunk_bytes):
        yield chunk_message(data[begin : begin + chunk_bytes])


def whole_transfer(tensors: Mapping[str, Tensor], manifest: Manifest, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    """Every message of a first attempt, although nobody has requested a chunk yet."""
    return [manifest_message(manifest), *chunks_of(data_of(tensors), chunk_bytes)]
