"""Safetensors files, written tensor by tensor from where each lies: no copy of a model is made, and no file is read
back to be hashed. A model's files are those of a Hugging Face folder: one, or shards with an index.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from learner.persistence.manifest import WrittenFile
from tppo.digests import ALGORITHM, named, new_hasher
from tppo.process.event_loop import warn_on_event_loop
from tppo.run_folder.json_files import write_object
from tppo.weights import TensorLayout, TensorsDigest, byte_parts

MAX_SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"

Tensors = Mapping[str, Tensor]


def num_bytes_of(tensors: Tensors) -> int:
    """Size of the tensors together."""
    return sum(_num_bytes(tensor) for tensor in tensors.values())


def write_tensors(
    path: Path, tensors: Tensors, *, metadata: Mapping[str, str] | None = None, whole: TensorsDigest | None = None
) -> WrittenFile:
    """One file, on the disk when this returns; each tensor is added to the digest `whole`. Raises OSError."""
    warn_on_event_loop(f"writing of {path.name}")
    layout = TensorLayout.of(tensors)
    of_file, whole = new_hasher(), whole or TensorsDigest()
    with path.open("wb") as file:

        def put(data: bytes | memoryview) -> None:
            file.write(data)
            of_file.update(data)

        put(layout.header(metadata or {}))
        for facts in layout.tensors:
            of_tensor = whole.new_hasher()
            for part in byte_parts(tensors[facts.name]):
                put(part)
                of_tensor.update(part)
            whole.note(facts, of_tensor.hexdigest())
        file.flush()
        os.fsync(file.fileno())
        return WrittenFile(file.tell(), named(ALGORITHM, of_file))


def write_model(
    folder: Path, tensors: Tensors, *, max_shard_bytes: int = MAX_SHARD_BYTES, whole: TensorsDigest | None = None
) -> dict[str, WrittenFile]:
    """`model.safetensors`, or its shards and their index, in a folder that has none of them; the large ones by name."""
    shards = list(_shards(tensors, max_shard_bytes))
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_object(folder / INDEX, {"metadata": {"total_size": num_bytes_of(tensors)}, "weight_map": weight_map})
    return {
        name: write_tensors(folder / name, shard, metadata={"format": "pt"}, whole=whole)
        for name, shard in zip(names, shards, strict=True)
    }


def _shards(tensors: Tensors, max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """In order; one with a single tensor may be larger."""
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if shard and num_bytes_of(shard) + _num_bytes(tensor) > max_bytes:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
