"""A safetensors file that is written tensor by tensor from where each lies: no copy of a model is made, and no file is
read back to be hashed.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from tppo.digests import ALGORITHM, named, new_hasher
from tppo.process.event_loop import warn_on_event_loop
from tppo.weights import TensorFacts, TensorLayout, TensorsDigest, byte_parts

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What a manifest says of a file."""

    num_bytes: int
    digest: str


class HashedFile:
    """Within the block tensors are put in the order of the layout; behind it they are on the disk. Raises OSError."""

    def __init__(self, path: Path, layout: TensorLayout, metadata: Mapping[str, str], whole: TensorsDigest) -> None:
        """Each tensor is added to the digest `whole`."""
        self._path, self._header, self._whole = path, layout.header(metadata), whole
        self._hasher, self._num_bytes = new_hasher(), 0
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        self._file = self._opened.enter_context(self._path.open("wb"))
        self._put_bytes(self._header)
        return self

    def put(self, facts: TensorFacts, tensor: Tensor) -> None:
        """The next tensor, which may lie on any device."""
        self.put_parts(facts, byte_parts(tensor))

    def put_parts(self, facts: TensorFacts, parts: Iterable[bytes | memoryview]) -> None:
        """The next tensor, as its bytes."""
        of_tensor = self._whole.new_hasher()
        for part in parts:
            self._put_bytes(part)
            of_tensor.update(part)
        self._whole.note(facts, of_tensor.hexdigest())

    def _put_bytes(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hasher.update(data)
        self._num_bytes += len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._opened:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    @property
    def written(self) -> WrittenFile:
        """What is in it."""
        return WrittenFile(self._num_bytes, named(ALGORITHM, self._hasher))


def write_tensors(path: Path, tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> WrittenFile:
    """One file of tensors that are here, on the disk when this returns. Raises OSError."""
    parts = {TensorFacts.of(name, tensor): byte_parts(tensor) for name, tensor in tensors.items()}
    return write_parts(path, parts, metadata=metadata)


def write_parts(
    path: Path,
    tensors: Mapping[TensorFacts, Iterable[bytes | memoryview]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> WrittenFile:
    """The same of tensors whose bytes come in parts."""
    warn_on_event_loop(f"writing of {path.name}")
    layout = TensorLayout(tensors)
    with HashedFile(path, layout, metadata or {}, TensorsDigest()) as file:
        for facts in layout.tensors:
            file.put_parts(facts, tensors[facts])
    return file.written
