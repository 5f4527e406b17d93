"""Weights on their way into a generator: found in the learner's memory, or put together from its chunks.

What has arrived outlives the connection: the next attempt at the same weights goes on behind it.
"""

import logging
from collections.abc import Iterator

from tppo.digests import Hasher, new_hasher
from tppo.process.event_loop import warn_on_event_loop
from tppo.weights import MemoryFile, NotSharedError, WeightUpdate
from tppo.weights.manifest import Manifest

log = logging.getLogger(__name__)


class OtherTransferError(Exception):
    """Another transfer to this generator has begun meanwhile."""


class ArrivingDigests:
    """The digest of each tensor, from bytes that arrive in order; hashed while they are in the processor's cache."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._remaining = iter(manifest.layout.tensors)
        self._name, self._num_missing = "", 0
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

    def _go_on(self) -> None:
        """To the next tensor that has bytes."""
        while not self._num_missing:
            if self._name:
                _require(self._manifest, self._name, self._hasher)
            following = next(self._remaining, None)
            if following is None:
                return
            self._name, self._num_missing = following.name, following.num_bytes
            self._hasher = new_hasher(self._manifest.algorithm)


class Reception:
    """The bytes of all tensors of one manifest, as far as they have come."""

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
        if self.owner is not owner:
            raise OtherTransferError("another transfer of these weights has begun")
        if len(chunk) > self.num_missing:
            raise ValueError(f"the weight transfer brought {len(chunk) - self.num_missing} bytes too many")
        self._digests.feed(chunk)
        self._file.write(self.num_received, chunk)
        self.num_received += len(chunk)

    def update(self) -> WeightUpdate:
        """What was sent, once every byte is there."""
        self._file.seal()
        return _update(self.manifest, self._file)


class Receptions:
    """What of the learner's weights is here and not in use yet: one transfer at most."""

    def __init__(self, *, shares_memory: bool = True) -> None:
        self._shares_memory = shares_memory
        self._unfinished: Reception | None = None

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

    def begin(self, manifest: Manifest, owner: object) -> Reception:
        """A transfer of the whole weights, which goes on where an earlier one of the same weights ended."""
        found = self._unfinished
        if found is None or found.manifest.digest != manifest.digest:
            self._unfinished = None  # frees its memory first
            found = self._unfinished = Reception(manifest)
        found.manifest, found.owner = manifest, owner
        return found

    @property
    def num_held(self) -> int:
        """Bytes of an unfinished transfer."""
        return 0 if self._unfinished is None else self._unfinished.num_received

    def drop(self) -> None:
        """What has arrived is in use, or good for nothing."""
        self._unfinished = None


def _update(manifest: Manifest, file: MemoryFile) -> WeightUpdate:
    return WeightUpdate.of_file(manifest.policy_version, manifest.incarnation, manifest.digest, file)


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
