"""Weights on their way into a generator: found in the learner's memory, or put together from its chunks.

What has arrived outlives the connection: the next attempt at the same weights goes on behind it. Of complete weights
there is one copy here. Where it is kept for deltas or for other generators, it stays, sealed; else the engine gives the
memory back as it copies the tensors, so that the old weights and the new ones are all that a generator holds.
"""

import enum
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from tppo.digests import Hasher, new_hasher
from tppo.process.event_loop import warn_on_event_loop
from tppo.weights import MemoryFile, NotSharedError, TensorFacts, WeightUpdate
from tppo.weights.deltas import applied, delta_bytes
from tppo.weights.manifest import Manifest

log = logging.getLogger(__name__)


class OtherTransferError(Exception):
    """Another transfer to this generator has begun meanwhile."""


class ArrivingDigests:
    """The digest of each tensor, from bytes that arrive in order; hashed while they are in the processor's cache."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._remaining = iter(manifest.layout.tensors)
        self._tensor: TensorFacts | None = None
        self._num_missing = 0
        self._hasher: Hasher
        self._go_on()

    def feed(self, part: memoryview) -> None:
        """ValueError: a tensor is complete and is not what the manifest says."""
        while part:
            self._hasher.update(part[: self._num_missing])
            num_taken = min(len(part), self._num_missing)
            self._num_missing -= num_taken
            part = part[num_taken:]
            if not self._num_missing:
                self._go_on()

    def rewind(self) -> int:
        """To the begin of the tensor that is not verified yet; where its bytes begin."""
        if self._tensor is None:
            return 0
        self._begin()
        return self._manifest.layout.begins[self._tensor.name]

    def _go_on(self) -> None:
        """To the next tensor that has bytes."""
        while not self._num_missing:
            if self._tensor is not None:
                _require(self._manifest, self._tensor.name, self._hasher)
            following = next(self._remaining, None)
            if following is None:
                return
            self._tensor = following
            self._begin()

    def _begin(self) -> None:
        assert self._tensor is not None
        self._num_missing = self._tensor.num_bytes
        self._hasher = new_hasher(self._manifest.algorithm)


class WeightSource(enum.Enum):
    """In which form weights are requested of the learner."""

    WHOLE = "all bytes"
    DELTA = "what has changed"


class Reception:
    """The bytes of all tensors of one manifest, as far as they have come."""

    source = WeightSource.WHOLE

    def __init__(self, manifest: Manifest) -> None:
        """ValueError: they are more than fits into memory."""
        self.manifest = manifest
        self.num_received = 0
        self.owner: object = None  # the call that may add to it
        self._file = MemoryFile.create(manifest.layout)
        self._digests = ArrivingDigests(manifest)

    @property
    def num_missing(self) -> int:
        """Bytes that are yet to come."""
        return self.manifest.layout.num_bytes - self.num_received

    def add(self, chunk: memoryview, owner: object) -> None:
        """The next bytes. ValueError: they are too many, or wrong."""
        warn_on_event_loop("copying of received weights")
        _require_owner(self.owner, owner)
        if len(chunk) > self.num_missing:
            raise ValueError(f"the weight transfer brought {len(chunk) - self.num_missing} bytes too many")
        self._file.write(self.num_received, chunk)
        self._digests.feed(chunk)
        self.num_received += len(chunk)

    def rewind(self, owner: object) -> None:
        """Keep whole tensors alone, which are verified: what came after them may be wrong."""
        _require_owner(self.owner, owner)
        self.num_received = self._digests.rewind()

    def update(self) -> WeightUpdate:
        """What was sent, once every byte is there; sealed where it is to stay."""
        if self.manifest.is_kept:
            self._file.seal()
        return _update(self.manifest, self._file)


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """Complete weights, to which a delta may be applied and which others may read."""

    manifest: Manifest
    file: MemoryFile

    def fit(self, manifest: Manifest) -> bool:
        """Whether the delta that it offers leads from these weights to its own."""
        mine, delta = self.manifest, manifest.delta
        return (
            delta is not None
            and (mine.run, mine.incarnation) == (manifest.run, manifest.incarnation)
            and delta.base_version <= mine.policy_version < manifest.policy_version
            and mine.layout.tensors == manifest.layout.tensors
            and mine.algorithm == manifest.algorithm
        )


class DeltaReception:
    """The bytes of a delta, as far as they have come."""

    source = WeightSource.DELTA

    def __init__(self, manifest: Manifest, base: KeptWeights) -> None:
        self.manifest = manifest
        self.num_received = 0
        self.owner: object = None
        self._base: KeptWeights | None = base
        self._data = bytearray(delta_bytes(manifest))
        self._file: MemoryFile | None = None  # with the changes

    @property
    def num_missing(self) -> int:
        """Bytes that are yet to come."""
        return len(self._data) - self.num_received

    def add(self, chunk: memoryview, owner: object) -> None:
        """The next bytes. ValueError: they are too many."""
        _require_owner(self.owner, owner)
        if len(chunk) > self.num_missing:
            raise ValueError(f"the weight transfer brought {len(chunk) - self.num_missing} bytes too many")
        self._data[self.num_received : self.num_received + len(chunk)] = chunk
        self.num_received += len(chunk)

    def update(self) -> WeightUpdate:
        """The kept weights with the changes. ValueError: they are not what the manifest says."""
        if self._base is not None:
            self._file = applied(self._base.file, self._base.manifest, self.manifest, memoryview(self._data))
            self._base = None
        assert self._file is not None
        return _update(self.manifest, self._file)


class Receptions:
    """What of the learner's weights is here: one unfinished transfer at most, and what a delta may be applied to."""

    def __init__(self, *, shares_memory: bool = True) -> None:
        self._shares_memory = shares_memory
        self._changing = threading.Lock()  # calls that begin and complete transfers do so in threads
        self._unfinished: Reception | DeltaReception | None = None
        self._kept: KeptWeights | None = None

    def shared(self, manifest: Manifest) -> WeightUpdate | None:
        """The weights in the learner's own memory, where this process can open it and finds what was announced."""
        warn_on_event_loop("hashing of received weights")
        if manifest.shared is None or not self._shares_memory:
            return None
        try:
            file = MemoryFile.open(manifest.shared.path, manifest.layout, nonce=manifest.shared.nonce)
            _verify(manifest, file)
        except NotSharedError as error:
            log.debug("weights come by gRPC: %s", error)
            return None
        except ValueError as error:
            log.warning("weights come by gRPC, as those in the learner's memory are wrong: %s", error)
            return None
        self._unfinished = None
        return _update(manifest, file)

    def begin(self, manifest: Manifest, owner: object) -> Reception | DeltaReception:
        """A transfer that goes on where an earlier one of the same bytes ended; of a delta where one fits."""
        with self._changing:
            found = self._unfinished
            if found is None or not _is_same(found, manifest):
                self._unfinished = found = None  # frees its memory first
                found = self._new(manifest)
                self._unfinished = found
            found.manifest, found.owner = manifest, owner
            return found

    def _new(self, manifest: Manifest) -> Reception | DeltaReception:
        if self._kept is not None and self._kept.fit(manifest):
            return DeltaReception(manifest, self._kept)
        self._kept = None  # no later delta fits it either, so its memory is free for what comes
        return Reception(manifest)

    def completed(self, reception: Reception | DeltaReception, owner: object) -> WeightUpdate:
        """What has arrived, once every byte is there. ValueError: it is not what the manifest says.

        Where it is kept, an attempt that breaks from here on is followed by one that needs no bytes.
        """
        with self._changing:
            _require_owner(reception.owner, owner)
            update, manifest = reception.update(), reception.manifest
            self._keep(manifest, update)
            if not manifest.is_kept:
                self._unfinished = None  # the engine frees it bit by bit
            return update

    def took(self, manifest: Manifest, update: WeightUpdate, *, has_arrived: bool) -> None:
        """The weights are in use. They are kept for deltas and others, unless they lie in the learner's memory."""
        self._unfinished = self._kept = None
        if has_arrived:
            self._keep(manifest, update)

    def _keep(self, manifest: Manifest, update: WeightUpdate) -> None:
        """In place of others, whose memory is freed."""
        keeps = manifest.is_kept and update.file is not None
        self._kept = KeptWeights(manifest, update.file) if keeps and update.file else None

    def kept(self, digest: str) -> MemoryFile | None:
        """All bytes of these weights, where they are kept."""
        return self._kept.file if self._kept is not None and self._kept.manifest.digest == digest else None

    @property
    def num_held(self) -> int:
        """Bytes of an unfinished transfer."""
        return 0 if self._unfinished is None else self._unfinished.num_received

    def drop(self) -> None:
        """What has arrived, or what it was to be applied to, is good for nothing."""
        self._unfinished = self._kept = None


def _is_same(found: Reception | DeltaReception, manifest: Manifest) -> bool:
    """Whether what has come is the beginning of what would come now."""
    same = found.manifest.digest == manifest.digest
    return same and (found.source is WeightSource.WHOLE or found.manifest.delta == manifest.delta)


def _require_owner(owner: object, caller: object) -> None:
    if owner is not caller:
        raise OtherTransferError("another transfer of these weights has begun")


def _update(manifest: Manifest, file: MemoryFile) -> WeightUpdate:
    identity = manifest.policy_version, manifest.incarnation, manifest.digest
    return WeightUpdate.of_file(*identity, file, adapter=manifest.adapter)


def _verify(manifest: Manifest, file: MemoryFile) -> None:
    """Raise ValueError for the first tensor that is not what the manifest says."""
    digests = ArrivingDigests(manifest)
    for part in _parts(file.data):
        digests.feed(part)


def _parts(data: memoryview, num_bytes: int = 2**20) -> Iterator[memoryview]:
    for begin in range(0, len(data), num_bytes):
        yield data[begin : begin + num_bytes]


def _require(manifest: Manifest, name: str, hasher: Hasher) -> None:
    found, expected = hasher.hexdigest(), manifest.digests[name]
    if found != expected:
        raise ValueError(f"tensor {name!r} has arrived with digest {found}; the manifest says {expected}")
