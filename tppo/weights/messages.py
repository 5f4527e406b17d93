"""Weights <-> the messages of a transfer.

The bytes of all tensors, laid end to end in the order of the layout, are cut into chunks without regard to where a
tensor ends; so no message is larger than a chunk and none is tiny.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch

from tppo.digests import algorithm_of
from tppo.process.event_loop import warn_on_event_loop
from tppo.v1 import generation_pb2 as pb
from tppo.weights.layout import Layout, TensorFacts, byte_parts
from tppo.weights.memory_file import MemoryFile
from tppo.weights.tensor_digests import digest
from tppo.weights.update import WeightUpdate

CHUNK_BYTES = 2 * 1024 * 1024  # gRPC streams fastest with 1-4 MiB a message


def to_messages(
    tensors: Mapping[str, torch.Tensor],
    *,
    run: str,
    policy_version: int,
    incarnation: int,
    chunk_bytes: int = CHUNK_BYTES,
    known_digest: str = "",
) -> Iterator[pb.UpdateWeightsRequest]:
    """The manifest, then the chunks; `known_digest` spares hashing when the same weights go to several generators."""
    layout = Layout.of(tensors)
    manifest = pb.WeightManifest(
        policy_version=policy_version,
        incarnation=incarnation,
        digest=known_digest or digest(tensors),
        tensors=[pb.TensorSpec(name=one.name, dtype=one.dtype, shape=one.shape) for one in layout.tensors],
        run=run,
    )
    yield pb.UpdateWeightsRequest(manifest=manifest)
    for chunk in _chunks((part for one in layout.tensors for part in byte_parts(tensors[one.name])), chunk_bytes):
        yield pb.UpdateWeightsRequest(chunk=chunk)


class WeightAssembler:
    """Puts one transfer together: `feed` each message, then `finish`. Raises ValueError when they do not fit."""

    def __init__(self) -> None:
        self._manifest: pb.WeightManifest | None = None
        self._file: MemoryFile
        self._num_received = 0

    def feed(self, message: pb.UpdateWeightsRequest) -> None:
        """Take the next message of the stream, whose bytes are copied."""
        warn_on_event_loop("copying of received weights")
        part = message.WhichOneof("part")
        if part == "manifest":
            self._begin(message.manifest)
        elif part == "chunk":
            self._write(message.chunk)
        else:
            raise ValueError("a message of the weight transfer holds neither a manifest nor a chunk")

    def finish(self) -> WeightUpdate:
        """What was sent, once every byte is there and the digest agrees."""
        if self._manifest is None:
            raise ValueError("the weight transfer ended before its manifest")
        if num_missing := self._file.layout.num_bytes - self._num_received:
            raise ValueError(f"the weight transfer ended {num_missing} bytes short of its manifest")
        self._file.seal()
        found = digest(self._file.tensors(), algorithm_of(self._manifest.digest))
        if found != self._manifest.digest:
            raise ValueError(f"the received weights have digest {found}; the manifest says {self._manifest.digest}")
        return WeightUpdate.of_file(self._manifest.policy_version, self._manifest.incarnation, found, self._file)

    def _begin(self, manifest: pb.WeightManifest) -> None:
        if self._manifest is not None:
            raise ValueError("the weight transfer brought a second manifest")
        layout = Layout(TensorFacts(spec.name, spec.dtype, tuple(spec.shape)) for spec in manifest.tensors)
        algorithm_of(manifest.digest)  # refused before anything is sent
        self._file = MemoryFile.create(layout)
        self._manifest = manifest

    def _write(self, chunk: bytes) -> None:
        if self._manifest is None:
            raise ValueError("the weight transfer brought a chunk before its manifest")
        if (surplus := self._num_received + len(chunk) - self._file.layout.num_bytes) > 0:
            raise ValueError(f"the weight transfer brought {surplus} bytes too many")
        self._file.write(self._num_received, chunk)
        self._num_received += len(chunk)


def _chunks(buffers: Iterable[memoryview], chunk_bytes: int) -> Iterator[bytes]:
    """All bytes in order, in pieces of `chunk_bytes`; the last may be shorter."""
    pending = bytearray()
    for buffer in buffers:
        while buffer:
            room = chunk_bytes - len(pending)
            if not pending and len(buffer) >= room:
                yield bytes(buffer[:room])
            else:
                pending += buffer[:room]
            buffer = buffer[room:]
            if len(pending) == chunk_bytes:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)
