"""Sparse deltas: the numbers that have changed since a base version, at any version since, with their newest values.

So a delta is right for a generator at any version from the base on, and versions may be skipped. Of each tensor it has
the number of changes in each block of 65,536 numbers, their places in the block as 16 bits, then the values; at one
change in a hundred that is 4 bytes for 200 of bfloat16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tppo.digests import new_hasher
from tppo.process.event_loop import warn_on_event_loop
from tppo.weights.layout import TensorFacts
from tppo.weights.manifest import Delta, Manifest
from tppo.weights.memory_file import MemoryFile

BLOCK = 2**16
SLICE = 16 * BLOCK  # numbers that are compared or replaced at once
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class EncodedDelta:
    """A delta and its bytes."""

    facts: Delta
    data: bytes


class ChangedNumbers:
    """Which numbers of the weights have changed since the base: a bit for each."""

    def __init__(self, base: MemoryFile, base_version: int) -> None:
        self.base_version = base_version
        self.num_versions = 0  # since the base
        self._newest = base
        self._masks = {one.name: np.zeros(-(-_count(one) // 8), np.uint8) for one in base.layout.tensors}

    @property
    def share(self) -> float:
        """The size of the delta, as a share of all bytes."""
        layout = self._newest.layout
        changed = {name: int(np.bitwise_count(mask).sum()) for name, mask in self._masks.items()}
        num_bytes = sum(_encoded_bytes(one, changed[one.name]) for one in layout.tensors if changed[one.name])
        return num_bytes / max(1, layout.num_bytes)

    def add(self, newest: MemoryFile) -> None:
        """The next version, with the same tensors."""
        warn_on_event_loop("comparing of weights")
        for one in newest.layout.tensors:
            mask, old, new = self._masks[one.name], _numbers(self._newest, one), _numbers(newest, one)
            for begin in range(0, len(new), SLICE):
                differs = np.packbits(old[begin : begin + SLICE] != new[begin : begin + SLICE])
                mask[begin // 8 : begin // 8 + len(differs)] |= differs
        self._newest = newest
        self.num_versions += 1

    def encoded(self) -> EncodedDelta:
        """To the newest version."""
        warn_on_event_loop("encoding of weights")
        changed, parts = dict[str, int](), list[bytes]()
        for one in self._newest.layout.tensors:
            places = _set_bits(self._masks[one.name])
            if len(places):
                changed[one.name] = len(places)
                counts = np.bincount(places // BLOCK, minlength=_num_blocks(one)).astype("<u4")
                values = _numbers(self._newest, one)[places]
                parts += [counts.tobytes(), (places % BLOCK).astype("<u2").tobytes(), values.tobytes()]
        return EncodedDelta(Delta(self.base_version, changed), b"".join(parts))


def delta_bytes(manifest: Manifest) -> int:
    """Size of the delta that the manifest offers."""
    assert manifest.delta is not None
    changed = manifest.delta.num_changed
    return sum(_encoded_bytes(one, changed[one.name]) for one in manifest.layout.tensors if one.name in changed)


def applied(base: MemoryFile, base_manifest: Manifest, manifest: Manifest, data: memoryview) -> MemoryFile:
    """The manifest's weights, sealed: the base's with the changes. ValueError: the delta is wrong, or the base is.

    Tensors that have changed are hashed; the digest of any other is the one that the base was verified by.
    """
    warn_on_event_loop("copying of weights")
    assert manifest.delta is not None
    created = MemoryFile.create(manifest.layout)
    for one in manifest.layout.tensors:
        num_changed = manifest.delta.num_changed.get(one.name, 0)
        if num_changed:
            size = _encoded_bytes(one, num_changed)
            found = _replace(created, base, one, data[:size], algorithm=manifest.algorithm)
            data = data[size:]
        else:
            found = base_manifest.digests[one.name]
            for begin, part in _slices(_numbers(base, one)):
                created.write(created.layout.begins[one.name] + begin * one.item_bytes, part.view(np.uint8).data)
        if found != manifest.digests[one.name]:
            raise ValueError(f"with the delta tensor {one.name!r} has digest {found}, not {manifest.digests[one.name]}")
    created.seal()
    return created


def _replace(created: MemoryFile, base: MemoryFile, one: TensorFacts, data: memoryview, *, algorithm: str) -> str:
    """Write the tensor with its changes; the digest."""
    num_blocks, hasher = _num_blocks(one), new_hasher(algorithm)
    counts = np.frombuffer(data, "<u4", num_blocks).astype(np.int64)
    num_changed = (len(data) - 4 * num_blocks) // (2 + one.item_bytes)
    if int(counts.sum()) != num_changed:
        raise ValueError(f"the delta of tensor {one.name!r} has {int(counts.sum())} changes; expected {num_changed}")
    in_block = np.frombuffer(data, "<u2", num_changed, 4 * num_blocks)
    values = np.frombuffer(data, _kind(one), num_changed, 4 * num_blocks + 2 * num_changed)
    places = np.repeat(np.arange(num_blocks) * BLOCK, counts) + in_block
    if num_changed and int(places.max()) >= _count(one):
        raise ValueError(f"the delta of tensor {one.name!r} changes number {int(places.max())} of {_count(one)}")
    ends = np.cumsum(counts)[SLICE // BLOCK - 1 :: SLICE // BLOCK]
    first = 0
    for index, (begin, part) in enumerate(_slices(_numbers(base, one))):
        last = int(ends[index]) if index < len(ends) else num_changed
        replaced = part.copy()
        replaced[places[first:last] - begin] = values[first:last]
        hasher.update(replaced.view(np.uint8).data)
        created.write(created.layout.begins[one.name] + begin * one.item_bytes, replaced.view(np.uint8).data)
        first = last
    return hasher.hexdigest()


def _set_bits(mask: Array) -> Array:
    """Their places, in order; most bytes have none."""
    in_bytes = np.flatnonzero(mask)
    bits = np.flatnonzero(np.unpackbits(mask[in_bytes]).view(np.bool_))
    return in_bytes[bits // 8] * 8 + bits % 8


def _slices(numbers: Array) -> Iterator[tuple[int, Array]]:
    for begin in range(0, len(numbers), SLICE):
        yield begin, numbers[begin : begin + SLICE]


def _numbers(file: MemoryFile, one: TensorFacts) -> Array:
    """The tensor's numbers as whole ones of their size: NaN is compared like any other."""
    if not one.num_bytes:
        return np.empty(0, _kind(one))
    return np.frombuffer(file.data, _kind(one), _count(one), file.layout.begins[one.name])


def _kind(one: TensorFacts) -> str:
    return f"<u{one.item_bytes}"


def _count(one: TensorFacts) -> int:
    return one.num_bytes // one.item_bytes


def _num_blocks(one: TensorFacts) -> int:
    return -(-_count(one) // BLOCK)


def _encoded_bytes(one: TensorFacts, num_changed: int) -> int:
    return 4 * _num_blocks(one) + (2 + one.item_bytes) * num_changed
