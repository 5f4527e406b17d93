"""Who sends all bytes of the weights to whom, so that a large fleet does not hang on the learner's link.

The learner sends them to a few generators at a time, and each generator that has them to a few others. So the sources
double with every round: 64 generators take as long as five or six transfers, and the learner sends a few of them.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

LEARNER = ""  # among the sources
NUM_STREAMS = 2  # of one source at a time
SLOW_BYTES_PER_SECOND = 25 * 2**20
LATENCY_SECONDS = 10.0  # beyond what the bytes take


def stream_seconds(num_bytes: int) -> float:
    """For which a stream of so many bytes keeps others from its source; a slower one goes on beside them."""
    return LATENCY_SECONDS + num_bytes / SLOW_BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Stream:
    """From a source to a generator."""

    source: str
    until: float  # when it does not count any more


class WeightSources:
    """Which generators have which weights, and who is sending to whom. Generators are named by their addresses."""

    def __init__(self, *, num_streams: int = NUM_STREAMS, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_streams = num_streams
        self._clock = clock
        self._takers: set[str] = set()  # of bytes, as far as is known
        self._sharing: set[str] = set()  # have opened the learner's memory, and will again
        self._kept: dict[str, str] = {}  # digest of the weights that a generator keeps for others
        self._streams: dict[str, Stream] = {}  # by the generator at its end
        self._changed = asyncio.Event()

    @property
    def are_relayed(self) -> bool:
        """Whether generators are to keep weights for others: there are more of them than the learner sends to."""
        return len(self._takers) > self._num_streams

    def expect(self, address: str) -> None:
        """The generator is sent weights, and it may need bytes."""
        if address not in self._sharing:
            self._takers.add(address)

    async def take(self, address: str, digest: str, seconds: float) -> str:
        """A source with a free stream, which is taken for so long; waits for one."""
        self.distrust(address)  # it has not what it requests
        while (source := self._free_source(digest)) is None:
            self._changed.clear()
            now = self._clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(one.until - now for one in self._streams.values() if one.until > now)):
                    await self._changed.wait()
        self.occupy(source, address, seconds)
        return source

    def occupy(self, source: str, address: str, seconds: float) -> None:
        """Whether or not it is free."""
        self._streams[address] = Stream(source, self._clock() + seconds)

    def release(self, address: str) -> None:
        """What is sent to the generator is there, or will not come."""
        if self._streams.pop(address, None) is not None:
            self._changed.set()

    def settle(self, address: str, digest: str, *, is_kept: bool, takes_bytes: bool) -> None:
        """The generator serves the weights: it keeps them for others or not, and has needed bytes or not."""
        self._kept.pop(address, None)
        if is_kept:
            self._kept[address] = digest
        now, before = (self._takers, self._sharing) if takes_bytes else (self._sharing, self._takers)
        now.add(address)
        before.discard(address)
        self._changed.set()

    def distrust(self, address: str) -> None:
        """It has failed as a source."""
        self._kept.pop(address, None)

    def forget(self, address: str) -> None:
        """The generator is gone."""
        self._takers.discard(address)
        self._sharing.discard(address)
        self.distrust(address)
        self.release(address)

    def _free_source(self, digest: str) -> str | None:
        """The one with the fewest streams; the learner where no generator is free."""
        now = self._clock()
        num_streams: dict[str, int] = {}
        for one in self._streams.values():
            if one.until > now:
                num_streams[one.source] = num_streams.get(one.source, 0) + 1
        having = [address for address, kept in self._kept.items() if kept == digest]
        found = min(having, key=lambda address: num_streams.get(address, 0), default=LEARNER)
        for source in (found, LEARNER):
            if num_streams.get(source, 0) < self._num_streams:
                return source
        return None


class WeightRoute:
    """The way of the weights to one generator: the source of each stream."""

    def __init__(self, sources: WeightSources, address: str) -> None:
        self._sources = sources
        self._address = address
        self._source = LEARNER

    async def choose(self, digest: str, seconds: float, *, peer_failed: bool) -> str:
        """A source, once one is free; the learner at once where a generator has failed."""
        if peer_failed:
            self._sources.distrust(self._source)
            self._source = LEARNER
            self._sources.occupy(LEARNER, self._address, seconds)
        else:
            self._source = await self._sources.take(self._address, digest, seconds)
        return self._source

    def end(self) -> None:
        """No bytes are on their way any more."""
        self._sources.release(self._address)
