"""What Redis does in one step. KEYS[1] is the request stream, ARGV[1] its group, ARGV[2] the worker.

A consumer group remembers for each delivered entry its worker, the time of delivery and the number of deliveries: that
is the lease. It is held by whom XPENDING names. A released entry belongs to a worker that does not exist.
"""

from tppo.streams.dead_letters import BURY
from tppo.streams.fence import GUARD, WITH_FULL_MEMORY
from tppo.streams.positions import APPEND, POSITIONS

RELEASED = "(released)"

# The beginning of a script that needs the group, which may be new, or gone with all else that the server held.
WITH_GROUP = """
local summary = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if summary.err then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM') end
"""

# ARGV: milliseconds of a lease, most entries, "own" to begin with those that the worker holds already, "expired" to go
# through all leases for expired ones; without it, of those that are free the released ones alone are found.
# Entries that were deleted from the stream (by hand) come without fields and are forgotten. A worker that takes an
# expired lease of its own has not died over it (the server was away, or it was frozen), so that is no further delivery.
LEASE = (
    WITH_GROUP
    + """
local stream, group, worker, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4])
local taken = {}

local function payload(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'payload' then return fields[i + 1] end
  end
  return ''
end

local function take(entries)
  for _, entry in ipairs(entries) do
    local id, fields = entry[1], entry[2]
    if fields then
      taken[#taken + 1] = {id, payload(fields), redis.call('XPENDING', stream, group, id, id, 1)[1][4]}
    else
      redis.call('XACK', stream, group, id)
    end
  end
end

local function read(after)
  if #taken < most then
    local reply = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', most - #taken, 'STREAMS', stream, after)
    if reply then take(reply[1][2]) end
  end
end

if ARGV[5] == 'own' then read('0') end
if #taken < most then
  local whose = ARGV[6] == 'expired' and {} or {ARGV[7]}
  local found = redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], '-', '+', most - #taken, unpack(whose))
  for _, free in ipairs(found) do
    local num_deliveries = free[4] + (free[2] == worker and 0 or 1)
    take(redis.call('XCLAIM', stream, group, worker, ARGV[3], free[1], 'RETRYCOUNT', num_deliveries))
  end
end
read('>')
return taken
"""
)

# ARGV: who holds the entries from now on, milliseconds since they were delivered, deliveries to take back, entry ids.
HAND_OVER = (
    WITH_GROUP
    + """
for i = 6, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])[1]
  if held then
    local num_deliveries = math.max(0, held[4] - ARGV[5])
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', ARGV[4], 'RETRYCOUNT', num_deliveries, 'JUSTID')
  end
end
"""
)

# KEYS[2]: the inbox, KEYS[3]: its highest position. ARGV: entry id, result, entry id, result, ...
COMPLETE = (
    WITH_GROUP
    + APPEND
    + """
local written = {}
for i = 3, #ARGV, 2 do
  local is_held = #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) > 0
  if is_held then
    append(KEYS[2], KEYS[3], ARGV[i + 1])
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
  end
  written[#written + 1] = is_held and 1 or 0
end
return written
"""
)

# KEYS[2]: the dead letters, KEYS[3]: their counts. ARGV: entry id, most dead letters, source, cause, payload. It runs
# with full memory too: what it adds is bounded, and a request that nobody can serve would hold its worker's room.
REJECT = (
    WITH_FULL_MEMORY
    + WITH_GROUP
    + BURY
    + """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
bury(KEYS[2], KEYS[3], ARGV[4], ARGV[5], ARGV[3], ARGV[6], ARGV[7])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
return 1
"""
)

# KEYS[1]: the inbox, KEYS[2]: its highest position. ARGV: the position that the writer knows, payload, payload, ...
APPEND_ALL = (
    APPEND
    + """
learn(KEYS[2], ARGV[1])
for i = 2, #ARGV do append(KEYS[1], KEYS[2], ARGV[i]) end
"""
)

# KEYS[1]: the fence, KEYS[2]: a stream, KEYS[3]: the inbox's highest position. ARGV: the writer's incarnation, the
# position that it knows, payload, payload, ... An answer to a request lies above that position. The reply: the ids.
PUT = (
    GUARD
    + POSITIONS
    + """
learn(KEYS[3], ARGV[2])
local ids = {}
for i = 3, #ARGV do
  ids[#ids + 1] = redis.call('XADD', KEYS[2], '*', 'payload', ARGV[i])
end
return ids
"""
)

# ARGV: entry ids. One that a worker holds is found without a look at its payload.
REMAINING = (
    WITH_GROUP
    + """
local remaining = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0 or #redis.call('XRANGE', KEYS[1], id, id) > 0 then
    remaining[#remaining + 1] = id
  end
end
return remaining
"""
)

# KEYS[1]: the fence, KEYS[2]: the inbox. ARGV: the writer's incarnation, the oldest id that stays.
TRIM = GUARD + "return redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2])"

# KEYS[1]: the fence, then the inbox, then the queues. ARGV: the writer's incarnation. The inbox keeps its last id.
DISCARD = (
    GUARD
    + """
local count = 0
for i = 2, #KEYS do count = count + redis.call('XLEN', KEYS[i]) end
redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return count
"""
)

# Entries are deleted when they are acknowledged, so that the stream holds exactly those not completed.
DEPTH = (
    WITH_GROUP
    + """
local delivered = redis.call('XPENDING', KEYS[1], ARGV[1])
local num_leased = delivered[1]
for _, consumer in ipairs(delivered[4] or {}) do
  if consumer[1] == ARGV[2] then num_leased = num_leased - tonumber(consumer[2]) end
end
return {redis.call('XLEN', KEYS[1]) - num_leased, num_leased}
"""
)
