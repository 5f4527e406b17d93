"""Positions of the inbox never go back, whatever the server's clock says.

Beside the fence stands the highest position that is known: of the newest entry, or of the learner, who has read further
than a server that came back empty, or than a replica that was promoted. Every script that adds to the inbox makes the
entry's id itself, above that position: the server's time, or the next number where its clock is behind.
"""

from tppo.streams.contract import BEGINNING, position_of

# The beginning of a script that compares positions. `learn` raises the one under a key.
POSITIONS = """
local function parts(position)
  local milliseconds, number = string.match(position, '^(%d+)-(%d+)$')
  return tonumber(milliseconds), tonumber(number)
end

local function learn(key, position)
  local milliseconds, number = parts(position)
  local known_milliseconds, known_number = parts(redis.call('GET', key) or '0-0')
  if milliseconds > known_milliseconds or (milliseconds == known_milliseconds and number > known_number) then
    redis.call('SET', key, position)
  end
end
"""

# The beginning of a script that adds to the inbox. The stream may be ahead of the key: somebody has set its last id.
APPEND = (
    POSITIONS
    + """
local function behind(position)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local milliseconds, number = parts(position)
  if now > milliseconds then return string.format('%.0f-0', now) end
  return string.format('%.0f-%.0f', milliseconds, number + 1)
end

local function last_id(inbox)
  local description = redis.call('XINFO', 'STREAM', inbox)
  for i = 1, #description, 2 do
    if description[i] == 'last-generated-id' then return description[i + 1] end
  end
end

local function append(inbox, key, payload)
  local id = behind(redis.call('GET', key) or '0-0')
  local added = redis.pcall('XADD', inbox, id, 'payload', payload)
  if type(added) == 'table' and added.err then
    if string.find(added.err, 'equal or smaller', 1, true) then id = behind(last_id(inbox)) end
    redis.call('XADD', inbox, id, 'payload', payload)
  end
  redis.call('SET', key, id)
end
"""
)


def position_key(run: str) -> str:
    """Where the highest known position of a run's inbox stands."""
    return f"tppo:{{{run}}}:position"


class HighestPosition:
    """Up to where this process knows the inbox."""

    def __init__(self) -> None:
        self.text = BEGINNING

    def note(self, position: str) -> None:
        """The inbox reaches this position at least."""
        self.text = max(self.text, position, key=position_of)
