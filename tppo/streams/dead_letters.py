"""The dead letters of a run on Redis: what no process can use leaves its stream for this one, with the cause.

They are bounded by count: the oldest is dropped for the newest, and how many were dropped is counted. A record of the
inbox stands under its position: one that a restarted learner reads again is not written a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tppo.streams.connection import RedisClient
from tppo.streams.contract import (
    MAX_CAUSE_CHARACTERS,
    MAX_DEAD_LETTERS,
    MAX_LETTER_BYTES,
    DeadLetter,
    DeadLetterCount,
)
from tppo.streams.fence import GUARD, fenced
from tppo.streams.positions import POSITIONS

# The beginning of a script that writes dead letters: each drops the oldest beyond the bound, and counts them.
BURY = """
local function bury(letters, counts, most, source, place, cause, payload)
  redis.call('XADD', letters, '*', 'source', source, 'place', place, 'cause', cause, 'payload', payload)
  local num_dropped = redis.call('XTRIM', letters, 'MAXLEN', most)
  if num_dropped > 0 then redis.call('HINCRBY', counts, 'num_dropped', num_dropped) end
end
"""

# KEYS: the fence, the dead letters, their counts. ARGV: the writer's incarnation, most, place, cause, payload, ...
BURY_RECORDS = (
    GUARD
    + POSITIONS
    + BURY
    + """
local first, second = parts(redis.call('HGET', KEYS[3], 'inbox_position') or '0-0')
for i = 3, #ARGV, 3 do
  local this_first, this_second = parts(ARGV[i])
  if this_first > first or (this_first == first and this_second > second) then
    bury(KEYS[2], KEYS[3], ARGV[2], 'inbox', ARGV[i], ARGV[i + 1], ARGV[i + 2])
    first, second = this_first, this_second
    redis.call('HSET', KEYS[3], 'inbox_position', ARGV[i])
  end
end
"""
)


@dataclass(frozen=True, slots=True)
class DeadLetterKeys:
    """Where the dead letters of a run stand, and their counts."""

    letters: str
    counts: str

    @classmethod
    def under(cls, prefix: str) -> "DeadLetterKeys":
        """Of the run whose keys begin so."""
        return cls(f"{prefix}:dead_letters", f"{prefix}:dead_letter_counts")


class RedisDeadLetters:
    """A stream without a group, and a hash of counts."""

    def __init__(self, client: RedisClient, keys: DeadLetterKeys, fence_key: str, incarnation: int) -> None:
        self._client, self._keys = client, keys
        self._fence_key, self._incarnation = fence_key, incarnation
        self._bury = client.register_script(BURY_RECORDS)

    async def add_records(self, letters: Sequence[DeadLetter]) -> None:
        """One script, under the fence."""
        if letters:
            keys = [self._fence_key, self._keys.letters, self._keys.counts]
            fields = [
                field for letter in map(bounded, letters) for field in (letter.place, letter.cause, letter.payload)
            ]
            await fenced(self._bury(keys, [self._incarnation, MAX_DEAD_LETTERS, *fields]))

    async def newest(self, count: int) -> list[DeadLetter]:
        """XREVRANGE."""
        entries: Any = await self._client.xrevrange(self._keys.letters, count=count)
        return [_letter(fields) for _, fields in entries]

    async def count(self) -> DeadLetterCount:
        """XLEN, and what was counted."""
        num_dropped: Any = await self._client.hget(self._keys.counts, "num_dropped")
        return DeadLetterCount(int(await self._client.xlen(self._keys.letters)), int(num_dropped or 0))


def bounded(letter: DeadLetter) -> DeadLetter:
    """The letter with no more of its record and its cause than is kept."""
    cause = letter.cause[:MAX_CAUSE_CHARACTERS].encode(errors="replace").decode()
    return DeadLetter(letter.source, letter.place, cause, letter.payload[:MAX_LETTER_BYTES])


def _letter(fields: dict[bytes, bytes]) -> DeadLetter:
    source, place, cause = (fields.get(name, b"").decode(errors="replace") for name in (b"source", b"place", b"cause"))
    return DeadLetter(source, place, cause, fields.get(b"payload", b""))
