"""One learner per run: a lease that it renews, and a fence that keeps out every earlier one.

The fence is the incarnation of the newest learner and only rises; the lease is a key beside it that expires. Whoever
finds the lease expired, or knows that its holder is dead, raises the fence and is the learner. What a learner writes is
written by a script that compares with the fence in the same step, so a learner that was frozen while another took over
cannot write anything when it wakes.
"""

from collections.abc import Awaitable
from dataclasses import dataclass

from tppo.streams.connection import RedisClient
from tppo.streams.contract import BEGINNING, StreamsError
from tppo.streams.positions import POSITIONS, position_key

UNFENCED = 2**53  # the incarnation of a writer that no fence keeps out

# The first line of a script that writes little, and runs with full memory too: without a learner nobody makes room.
WITH_FULL_MEMORY = "#!lua flags=allow-oom"

# The beginning of a script that writes: KEYS[1] is the fence, ARGV[1] the writer's incarnation.
GUARD = """
local fence = tonumber(redis.call('GET', KEYS[1]) or '0')
if fence > tonumber(ARGV[1]) then return redis.error_reply('FENCED ' .. string.format('%d', fence)) end
"""

# KEYS[2]: the lease. ARGV: least incarnation to be granted, host, milliseconds, an incarnation known to be dead.
# A reply of three: who holds the lease instead. A replica whose clock is behind makes a lease longer than it was.
ACQUIRE = (
    WITH_FULL_MEMORY
    + """
local fence = tonumber(redis.call('GET', KEYS[1]) or '0')
local host = redis.call('GET', KEYS[2])
if redis.call('PTTL', KEYS[2]) > tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
if host and fence ~= tonumber(ARGV[4]) then return {fence, host, redis.call('PTTL', KEYS[2])} end
fence = math.max(fence + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%d', fence))
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {fence}
"""
)

# A server that came back empty, or without its last second, learns fence and position again. KEYS[3]: the inbox's
# highest position, ARGV[4]: the learner's.
RENEW = (
    WITH_FULL_MEMORY
    + GUARD
    + POSITIONS
    + """
learn(KEYS[3], ARGV[4])
if fence < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
if redis.call('PEXPIRE', KEYS[2], ARGV[3]) == 0 then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
"""
)

RELEASE = GUARD + "redis.call('DEL', KEYS[2])"


class FencedError(Exception):
    """A later learner has taken the run over; this one must end."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The learner that holds the lease."""

    incarnation: int
    host: str
    remaining_milliseconds: int


def fence_key(run: str) -> str:
    """Where the fence of a run stands."""
    return f"tppo:{{{run}}}:fence"


def _lease_key(run: str) -> str:
    return f"tppo:{{{run}}}:learner"


async def is_held(client: RedisClient, run: str) -> bool:
    """Whether a learner holds the run's lease."""
    return bool(await client.exists(_lease_key(run)))


class Fence:
    """The fence and the lease of one run, for a learner on this host."""

    def __init__(self, client: RedisClient, run: str, *, host: str, lease_seconds: float) -> None:
        self._keys = [fence_key(run), _lease_key(run)]
        self._position_key = position_key(run)
        self._host = host
        self._milliseconds = round(lease_seconds * 1000)
        self._acquire = client.register_script(ACQUIRE)
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)

    async def acquire(self, at_least: int, *, dead_incarnation: int = 0) -> int | Holder:
        """The incarnation granted, or who holds the lease; one that is known to be dead counts as expired."""
        arguments: list[str | bytes | int] = [at_least, self._host, self._milliseconds, dead_incarnation]
        reply = await self._acquire(self._keys, arguments)
        return int(reply[0]) if len(reply) == 1 else Holder(reply[0], reply[1].decode(), reply[2])

    async def renew(self, incarnation: int, position: str = BEGINNING) -> None:
        """Restart the time of the lease; `position`: up to where this learner knows the inbox. Raises `FencedError`."""
        arguments: list[str | bytes | int] = [incarnation, self._host, self._milliseconds, position]
        await fenced(self._renew([*self._keys, self._position_key], arguments))

    async def release(self, incarnation: int) -> None:
        """An orderly end: the next learner need not wait. Raises `FencedError`."""
        await fenced(self._release(self._keys, [incarnation]))


async def fenced(reply: Awaitable[object]) -> object:
    """The reply of a script that begins with `GUARD`; its refusal becomes a `FencedError`."""
    try:
        return await reply
    except StreamsError as error:
        if not str(error).startswith("FENCED"):
            raise
        successor = str(error).split()[1]
    raise FencedError(f"another learner, incarnation {successor}, has taken this run over; this one ends")
