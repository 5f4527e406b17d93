"""Which weights the learner has announced: a generator takes no others, whoever sends them.

The learner writes the newest under its fence before it sends them; the generators read it when a transfer begins.
"""

import re
from dataclasses import dataclass

from tppo.streams.connection import RedisClient
from tppo.streams.fence import GUARD, fence_key, fenced

# KEYS[1]: the fence, KEYS[2]: the announcement. ARGV: the learner's incarnation, version, digest.
# It replaces a line of its own length, so it is written into a full server, too: generators need new weights even then.
ANNOUNCE = (
    "#!lua flags=allow-oom\n"
    + GUARD
    + """
local incarnation, version = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+) ')
if not version or tonumber(incarnation) < tonumber(ARGV[1]) or tonumber(version) <= tonumber(ARGV[2]) then
    redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
end
"""
)
ANNOUNCEMENT = re.compile(rb"(\d{1,19}) (\d{1,19}) ([0-9a-z]+:[0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class AnnouncedWeights:
    """The newest weights that the learner has announced."""

    incarnation: int
    policy_version: int
    digest: str


async def announce_weights(client: RedisClient, run: str, weights: AnnouncedWeights) -> None:
    """Idempotent; an older version of the same incarnation changes nothing. Raises `FencedError`."""
    arguments: list[str | bytes | int] = [weights.incarnation, weights.policy_version, weights.digest]
    await fenced(client.register_script(ANNOUNCE)([fence_key(run), _key(run)], arguments))


async def announced_weights(client: RedisClient, run: str) -> AnnouncedWeights | None:
    """None: the learner has announced nothing that this server still has."""
    text = await client.get(_key(run))
    found = ANNOUNCEMENT.fullmatch(text) if isinstance(text, bytes) else None
    return AnnouncedWeights(int(found[1]), int(found[2]), found[3].decode()) if found else None


def _key(run: str) -> str:
    return f"tppo:{{{run}}}:weights"
