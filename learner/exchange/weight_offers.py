"""What is computed once of each snapshot that somebody is sent: its digests, and the delta to the versions before."""

import asyncio
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

from learner.exchange.weight_publisher import Snapshot
from tppo.weights import MemoryFile
from tppo.weights.deltas import ChangedNumbers, EncodedDelta
from tppo.weights.manifest import Manifest

LARGEST_SHARE = 0.25  # of all bytes, that a delta may have: a larger one costs more computing than it saves sending
VERSIONS_WITHOUT = 8  # for which no version is compared after one that has changed nearly everything


@dataclass(frozen=True, slots=True)
class OfferedWeights:
    """A snapshot as it is sent."""

    manifest: Manifest
    file: MemoryFile  # with all bytes
    delta_data: bytes
    was_requested: Callable[[], None]  # somebody does not open the snapshot's memory


class WeightOffers:
    """Compares each snapshot with the one before, as long as somebody is sent bytes, and deltas are worth while."""

    def __init__(self) -> None:
        self._preparing = asyncio.Lock()
        self._made: weakref.WeakKeyDictionary[Snapshot, OfferedWeights] = weakref.WeakKeyDictionary()
        self._changed: ChangedNumbers | None = None
        self._newest: tuple[int, int] = (-1, -1)  # incarnation and version of those that were compared
        self._is_requested = False
        self._num_skipped = 0

    async def of(self, snapshot: Snapshot) -> OfferedWeights:
        """The same one for everybody."""
        async with self._preparing:
            if snapshot not in self._made:
                self._made[snapshot] = await asyncio.to_thread(self._offer, snapshot)
            return self._made[snapshot]

    def _offer(self, snapshot: Snapshot) -> OfferedWeights:
        encoded = self._delta(snapshot)
        manifest = replace(
            snapshot.manifest, delta=encoded.facts if encoded else None, deltas_follow=not self._num_skipped
        )
        return OfferedWeights(manifest, snapshot.file, encoded.data if encoded else b"", self._note_request)

    def _note_request(self) -> None:
        self._is_requested = True

    def _delta(self, snapshot: Snapshot) -> EncodedDelta | None:
        """None where it would not be worth while; the snapshot is then the base of those that follow."""
        identity = (snapshot.incarnation, snapshot.policy_version)
        if identity <= self._newest:  # an older one, whose transfer goes on
            return None
        self._newest = identity
        if self._num_skipped:
            self._num_skipped -= 1
        elif self._changed is not None and self._is_requested:
            self._changed.add(snapshot.file)
            share = self._changed.share
            if share <= LARGEST_SHARE:
                return self._changed.encoded()
            is_by_this_step = self._changed.num_versions == 1
            self._num_skipped = VERSIONS_WITHOUT if is_by_this_step else 0
        self._changed = ChangedNumbers(snapshot.file, snapshot.policy_version)
        return None
