"""What the ledger does on Redis in one step, as Lua. Time is the server's.

`taskq:doc:<kind>` is a hash of name -> `<version>:<value>`, with the number of the last change under the empty name.
`taskq:mark:<name>` is its holder. `taskq:permit:<gate>` is a sorted set of members by the end of their lease,
`taskq:permit-by:<gate>` a hash of member -> holder, `taskq:held:<holder>` a set of `<length of gate>:<gate><member>`.
`taskq:rate:<gate>` is the time of the next start (GCRA). All but documents expire.
"""

from typing import Final

from taskq.broker_adapters.redis.link import Script

#: KEYS hash      ARGV name, value, version that is wanted (or empty)
#: Returns the new version, or nothing.
PUT: Final = Script("""
local present = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '0:', '^(%d+):')
if ARGV[3] ~= '' and ARGV[3] ~= present then return nil end
local version = redis.call('HINCRBY', KEYS[1], '', 1)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', version) .. ':' .. ARGV[2])
return version
""")

#: KEYS hash      ARGV name...
DROP: Final = Script("""
for i = 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('HINCRBY', KEYS[1], '', 1)
""")

#: KEYS mark...      ARGV holder, milliseconds of each
#: Returns for each who else has it, or an empty text.
MARK: Final = Script("""
local reply = {}
for i, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder and holder ~= ARGV[2 * i - 1] then
    reply[i] = holder
  else
    redis.call('SET', key, ARGV[2 * i - 1], 'PX', ARGV[2 * i])
    reply[i] = ''
  end
end
return reply
""")

#: KEYS mark...      ARGV holder of each
UNMARK: Final = Script("""
for i, key in ipairs(KEYS) do if redis.call('GET', key) == ARGV[i] then redis.call('DEL', key) end end
""")

_PERMITS: Final = """
local prefix = ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function text(number) return string.format('%.6f', number) end
local function keys(gate) return prefix .. 'permit:' .. gate, prefix .. 'permit-by:' .. gate end
local function last(key, seconds)  -- at least so long; longer leases of others stay
  local wanted = math.ceil(seconds * 1000)
  if redis.call('PTTL', key) < wanted then redis.call('PEXPIRE', key, wanted) end
end
local function hold(gate, member, holder, lease)
  local slots, by = keys(gate)
  redis.call('ZADD', slots, text(now + lease), member)
  redis.call('HSET', by, member, holder)
  last(slots, lease)
  last(by, lease)
end
"""

#: ARGV prefix, holder, lease, then of each ask: count of wants, and of each want: gate and either
#:      'slot', member, limit or 'pace', interval, burst
#: Returns for each ask an empty list, or the place of the gate in its way and how long, or an empty text.
ACQUIRE: Final = Script(
    _PERMITS
    + """
local holder, lease = ARGV[2], tonumber(ARGV[3])
local held = prefix .. 'held:' .. holder
local function wait_for_slot(gate, member, limit)
  local slots, by = keys(gate)
  local dead = redis.call('ZRANGEBYSCORE', slots, '-inf', text(now))
  for _, one in ipairs(dead) do redis.call('HDEL', by, one) redis.call('ZREM', slots, one) end
  if redis.call('ZSCORE', slots, member) or redis.call('ZCARD', slots) < limit then return nil end
  return ''
end
local function next_start(gate)
  return math.max(now, tonumber(redis.call('GET', prefix .. 'rate:' .. gate) or 0))
end
local function wait_for_pace(gate, interval, burst)
  local early = next_start(gate) - interval * (burst - 1) - now
  return early > 0 and early or nil
end
local function blocked(first, count)
  local place, longest = nil, nil
  for i = 0, count - 1 do
    local at = first + 4 * i
    local check = ARGV[at + 1] == 'slot' and wait_for_slot or wait_for_pace
    local wait = check(ARGV[at], ARGV[at + 1] == 'slot' and ARGV[at + 2] or tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]))
    if wait == '' then return {i, ''} end
    if wait and (not longest or wait > longest) then place, longest = i, wait end
  end
  return longest and {place, text(longest)} or {}
end
local function take(first, count)
  for i = 0, count - 1 do
    local gate, kind, a, b = unpack(ARGV, first + 4 * i, first + 4 * i + 3)
    if kind == 'slot' then
      hold(gate, a, holder, lease)
      redis.call('SADD', held, #gate .. ':' .. gate .. a)
      last(held, lease)
    else
      local following = next_start(gate) + tonumber(a)
      redis.call('SET', prefix .. 'rate:' .. gate, text(following), 'PX', math.ceil((following - now) * 1000))
    end
  end
end
local at, reply = 4, {}
while ARGV[at] do
  local count = tonumber(ARGV[at])
  local answer = blocked(at + 1, count)
  if #answer == 0 then take(at + 1, count) end
  reply[#reply + 1] = answer
  at = at + 1 + 4 * count
end
return reply
"""
)

#: ARGV prefix, holder, then of each slot: gate, member
RELEASE: Final = Script(
    _PERMITS
    + """
local held = prefix .. 'held:' .. ARGV[2]
for i = 3, #ARGV, 2 do
  local gate, member = ARGV[i], ARGV[i + 1]
  local slots, by = keys(gate)
  if redis.call('HGET', by, member) == ARGV[2] then
    redis.call('ZREM', slots, member)
    redis.call('HDEL', by, member)
  end
  redis.call('SREM', held, #gate .. ':' .. gate .. member)
end
"""
)

#: ARGV prefix, holder, lease
KEEP: Final = Script(
    _PERMITS
    + """
local held, lease = prefix .. 'held:' .. ARGV[2], tonumber(ARGV[3])
for _, entry in ipairs(redis.call('SMEMBERS', held)) do
  local length, rest = string.match(entry, '^(%d+):(.*)$')
  local gate, member = string.sub(rest, 1, tonumber(length)), string.sub(rest, tonumber(length) + 1)
  local slots, by = keys(gate)
  local ends = redis.call('ZSCORE', slots, member)
  if ends and tonumber(ends) > now and redis.call('HGET', by, member) == ARGV[2] then
    hold(gate, member, ARGV[2], lease)
  else
    redis.call('SREM', held, entry)
  end
end
last(held, lease)
"""
)
