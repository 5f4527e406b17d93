"""What a run's streams promise, whatever they are made of. Payloads are bytes; `tppo/codec.py` knows what they mean.

The states of a request:

    put -> WAITING -> LEASED by a worker -> completed: its result is in the inbox and the request is gone, in one step
                        |  ^
                        |  '-- renewed by its worker
                        |----> free again: released, or not renewed for `lease_seconds` -> LEASED by any worker
                        '----> rejected: it becomes a dead letter and the request is gone, in one step

A lease lasts until another worker takes the entry; expiry only allows that. So a late worker whose entry nobody wanted
still completes it, and one whose entry was taken learns that and writes nothing. A writer whose connection breaks
cannot know whether its bytes arrived and may send them twice: readers drop duplicates by the record's key.

Every operation may raise `StreamsError`: as `StreamsUnavailable` when a retry is promising, as `StreamsDenied` where
the password is wrong, else for a fault in what was sent or found (a key of the wrong type), which a retry only repeats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_DEAD_LETTERS = 1000
MAX_LETTER_BYTES = 16_384  # of one record that are kept, so that all dead letters take 16 MB at most
MAX_CAUSE_CHARACTERS = 500
BEGINNING = "0-0"  # the inbox position before every entry
MAX_WAIT_SECONDS = 2.0  # longer waits are cut to this: a blocked read has to end well before the socket's time-out


class StreamsError(Exception):
    """An operation failed; what the server did of it is unknown."""


class StreamsUnavailable(StreamsError):  # noqa: N818
    """It is away, starting, or full in memory or on its disk: a retry succeeds when that has passed."""


class StreamsDenied(StreamsError):  # noqa: N818
    """It refuses this user or password: only a person can help."""


def position_of(text: str) -> tuple[int, int]:
    """An inbox position in its order: milliseconds and a number within."""
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)


@dataclass(frozen=True, slots=True)
class Lease:
    """A request that a worker holds."""

    entry_id: str
    payload: bytes
    num_deliveries: int  # 1, and one more for each worker that did not renew in time or was restarted


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A request that is not completed, whoever holds it."""

    entry_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One record of the log."""

    position: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Requests not yet completed."""

    num_waiting: int  # never leased, or released
    num_leased: int  # held by a worker, be it late


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request or a record that no process can use."""

    source: str  # the stream that held it
    place: str  # its entry there
    cause: str
    payload: bytes  # its first `MAX_LETTER_BYTES`


@dataclass(frozen=True, slots=True)
class DeadLetterCount:
    """Of a run so far."""

    num_kept: int
    num_dropped: int  # the oldest, beyond the bound


class DeadLetters(Protocol):
    """What was rejected, with the cause, for a person to look at. Bounded by count."""

    async def add_records(self, letters: Sequence[DeadLetter]) -> None:
        """Records of the inbox, in its order; one that was added before is left out."""

    async def newest(self, count: int) -> list[DeadLetter]:
        """At most so many, the newest first."""

    async def count(self) -> DeadLetterCount:
        """How many are kept and how many were dropped."""


class RequestQueue(Protocol):
    """Requests in the order in which they were put, each completed once."""

    async def put(self, payloads: Sequence[bytes]) -> list[str]:
        """Append all or none, in one round trip. The ids of their entries."""

    async def lease(self, worker: str, *, max_count: int, wait_seconds: float) -> list[Lease]:
        """At most `max_count` entries: the worker's own from before its restart, then free ones, then new ones.

        Own ones are looked for at the first call only. Waits for new ones only when there is nothing at all; do not
        cancel it while it waits: what was leased in that moment stays unknown to the worker until its lease expires.
        """

    async def renew(self, worker: str, leases: Sequence[Lease]) -> None:
        """Restart the time of those that the worker still holds; leave the others alone."""

    async def complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """Each result goes to the inbox as its request goes; False: the lease was lost and nothing is written."""

    async def reject(self, worker: str, lease: Lease, cause: str) -> bool:
        """A request that nobody can serve becomes a dead letter as it goes; False: the lease was lost."""

    async def release(self, worker: str, leases: Sequence[Lease]) -> None:
        """Give up those that the worker still holds; any worker may take them at once, as if never delivered to it."""

    async def remaining(self, entry_ids: Sequence[str]) -> set[str]:
        """Those whose requests are not completed, in one round trip without a payload; give a thousand at most."""

    async def outstanding(self, after: str = BEGINNING, *, max_count: int) -> list[Outstanding]:
        """At most `max_count` requests not completed, strictly behind the entry, in order."""

    async def depth(self) -> QueueDepth:
        """How many wait and how many are held."""


class Inbox(Protocol):
    """A log that one reader follows by position."""

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append all or none, in one round trip."""

    async def read(self, after: str, *, max_count: int, wait_seconds: float) -> list[InboxEntry]:
        """At most `max_count` entries strictly behind the position; waits only when there is none."""

    async def trim(self, through: str) -> None:
        """Delete the entries up to and including the position: only behind a committed checkpoint."""

    async def last(self) -> str:
        """The position of the newest entry that it holds; `BEGINNING` when it holds none."""

    async def length(self) -> int:
        """How many entries it holds."""


class Streams(Protocol):
    """The streams of a run. Results of both queues go to the one inbox."""

    @property
    def window_requests(self) -> RequestQueue:
        """From the learner to the generators."""

    @property
    def reward_requests(self) -> RequestQueue:
        """From the learner to the reward workers."""

    @property
    def inbox(self) -> Inbox:
        """To the learner."""

    @property
    def dead_letters(self) -> DeadLetters:
        """What was rejected, by generators, reward workers and the learner."""

    async def is_full(self) -> bool:
        """Whether writers find no room, or soon will not."""

    async def discard(self) -> int:
        """Forget every request, whoever holds it, and every record; how many. Positions go on rising."""
