"""What must happen on Redis in one step, as Lua.

Messages are moved as text, never decoded: cjson turns empty arrays into objects and drops digits of large numbers.
A claim of ours is `[<entry>,"","<queue>"]` under the tag `taskq:<priority step>:<consumer>:<number>`
(wire-format.md 13.1): a Celery worker restores it as its own, and we find list and entry without decoding.

Lua's unpack takes some 8,000 values: long ones go in pieces of 4,000.
"""

from typing import Final

from taskq.broker_adapters.redis.link import Script

_NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function text(number) return string.format('%.6f', number) end
local function each(values, first, use)
  for i = first, #values, 4000 do use(unpack(values, i, math.min(i + 3999, #values))) end
end
"""

# A full Redis refuses the first growing write of a script, but not a later one: what follows only moves messages
# and must not be refused half-way or when it would make room.
_MAY_GROW: Final = "redis.call('HDEL', KEYS[1], '')\n"

_ENTRY: Final = """
local function entry(claim) return string.match(claim, '^%[(.*),"","(.*)"%]$') end
"""

#: KEYS marker, list...      ARGV number, seconds to keep the marker, count of each list..., envelope...
#: The marker remembers the last batch taken, for a client that lost the connection before the answer.
#: Returns one text per list: empty, or why it was refused.
PUBLISH: Final = Script("""
local at, taken, reply = 1 + #KEYS, true, {}
for i = 2, #KEYS do
  local last, answer = at + tonumber(ARGV[i + 1]), nil
  while at < last do
    local till = math.min(at + 4000, last)
    answer = redis.pcall('LPUSH', KEYS[i], unpack(ARGV, at + 1, till))
    if type(answer) == 'table' and answer.err then break end
    at = till
  end
  at = last
  reply[i - 1] = type(answer) == 'table' and answer.err or ''
  taken = taken and reply[i - 1] == ''
end
if taken then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return reply
""")

#: KEYS name of each message      ARGV seconds to remember it, then of each: envelope, count, list...
#: Messages named by `Message.once`: those whose name is known are left out.
#: Returns one text per message: empty, or why it was refused.
PUBLISH_ONCE: Final = Script("""
local at, reply = 2, {}
for i, name in ipairs(KEYS) do
  local lists = tonumber(ARGV[at + 1])
  local answer = redis.pcall('SET', name, 1, 'NX', 'EX', ARGV[1])
  if answer and not answer.err then
    for k = 1, lists do
      local pushed = redis.pcall('LPUSH', ARGV[at + 1 + k], ARGV[at])
      if type(pushed) == 'table' and pushed.err then answer = pushed end
    end
    if answer.err then redis.call('DEL', name) end
  end
  reply[i] = answer and answer.err or ''
  at = at + 2 + lists
end
return reply
""")

#: KEYS name...      ARGV seconds to remember them from now on
FORGET_SOON: Final = Script("for _, name in ipairs(KEYS) do redis.call('EXPIRE', name, ARGV[1]) end")

#: KEYS unacked, index, leases, list...
#: ARGV room, bytes of it, lease, seconds the index runs ahead, first number, lists of one priority,
#:      then tag prefix and claim suffix of each list
#: Within a priority every queue gets its share of the room first, then what others leave. How long a message is,
#: only a pop tells: at once go no more than have gone before, and what is beyond the bytes goes back.
#: Returns {{list, count, list, count, ...}, {entry, ...}}; tags are prefix .. number, counted up.
CLAIM: Final = Script(
    _NOW
    + """
-- A wrong type shows before any pop; by writes, since reading would have Redis tell us of our own pop as of news.
redis.call('HDEL', KEYS[1], '') redis.call('ZREM', KEYS[2], '') redis.call('ZREM', KEYS[3], '')
local room, bytes, number, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local score, expiry = text(now + tonumber(ARGV[4])), text(now + tonumber(ARGV[3]))
local runs, entries, unacked, index, leases, problem = {}, {}, {}, {}, {}, nil
local function pop(list, most)
  local got = redis.pcall('RPOP', KEYS[list + 3], most)
  if not got then return 0 end
  if got.err then problem = problem or got return 0 end
  local prefix, suffix, kept = ARGV[5 + 2 * list], ARGV[6 + 2 * list], 0
  for _, raw in ipairs(got) do
    if bytes <= 0 then break end
    local tag, n = prefix .. string.format('%012d', number), #entries
    number = number + 1
    entries[n + 1] = raw
    unacked[2 * n + 1], unacked[2 * n + 2] = tag, '[' .. raw .. suffix
    index[2 * n + 1], index[2 * n + 2] = score, tag
    leases[2 * n + 1], leases[2 * n + 2] = expiry, tag
    bytes, kept = bytes - #raw, kept + 1
  end
  for i = #got, kept + 1, -1 do redis.call('RPUSH', KEYS[list + 3], got[i]) end
  runs[#runs + 1], runs[#runs + 2] = list, kept
  room = room - kept
  return kept
end
local function take(list, most)
  while most > 0 and bytes > 0 do
    local some = math.min(most, math.max(1, math.min(#entries, 16)))
    if pop(list, some) < some then return end
    most = most - some
  end
end
for first = 1, #KEYS - 3, width do
  local share = math.ceil(room / width)
  for list = first, first + width - 1 do if room > 0 then take(list, math.min(share, room)) end end
  if width > 1 then for list = first, first + width - 1 do if room > 0 then take(list, room) end end end
end
if problem and #entries == 0 then return problem end
each(unacked, 1, function(...) redis.call('HSET', KEYS[1], ...) end)
each(index, 1, function(...) redis.call('ZADD', KEYS[2], ...) end)
each(leases, 1, function(...) redis.call('ZADD', KEYS[3], ...) end)
return {runs, entries}
"""
)

#: KEYS unacked, index, leases      ARGV tag...      Returns how many were still ours.
ACK: Final = Script(
    _NOW
    + """
local gone = 0
each(ARGV, 1, function(...)
  gone = gone + redis.call('HDEL', KEYS[1], ...)
  redis.call('ZREM', KEYS[2], ...)
  redis.call('ZREM', KEYS[3], ...)
end)
return gone
"""
)

#: KEYS unacked, index, leases      ARGV lease, seconds the index runs ahead, tag...
#: Returns the positions (from 1) of those whose lease is lost.
RENEW: Final = Script(
    _NOW
    + _MAY_GROW
    + """
local lost, index, leases = {}, {}, {}
local score, expiry = text(now + tonumber(ARGV[2])), text(now + tonumber(ARGV[1]))
for i = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[3], ARGV[i]) then
    index[#index + 1], index[#index + 2] = score, ARGV[i]
    leases[#leases + 1], leases[#leases + 2] = expiry, ARGV[i]
  else
    lost[#lost + 1] = i - 2
  end
end
each(index, 1, function(...) redis.call('ZADD', KEYS[2], 'XX', ...) end)
each(leases, 1, function(...) redis.call('ZADD', KEYS[3], 'XX', ...) end)
return lost
"""
)

#: KEYS unacked, index, leases, deaths, guard
#: ARGV LPUSH|RPUSH, age, seconds to keep deaths, then of each: tag, task id of a death or '', entry, count, list...
#: Gives back claims whose score in `guard` is at least `age` seconds ago. Returns how many.
RESTORE: Final = Script(
    _NOW
    + _MAY_GROW
    + """
local limit, back, i = now - tonumber(ARGV[2]), 0, 4
while i <= #ARGV do
  local tag, id, raw, lists = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local score = redis.call('ZSCORE', KEYS[5], tag)
  if score and tonumber(score) <= limit and redis.call('HEXISTS', KEYS[1], tag) == 1 then
    for k = 1, lists do redis.call(ARGV[1], ARGV[i + 3 + k], raw) end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZREM', KEYS[3], tag)
    if id ~= '' then
      redis.call('HSETNX', KEYS[4], id, 1)
      redis.call('EXPIRE', KEYS[4], ARGV[3])
    end
    back = back + 1
  end
  i = i + 4 + lists
end
return back
"""
)

# A parked message goes to the head of its list: the tag of its claim tells the priority step.
_MOVE: Final = """
local function move(tag, queue, prefix, separator)
  local claim = redis.call('HGET', KEYS[1], tag)
  if not claim then return end
  local list, step = prefix .. queue, string.match(tag, '^taskq:(%d*):')
  if step ~= '0' then list = list .. separator .. step end
  redis.call('RPUSH', list, (entry(claim)))
  redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)
end
"""

#: KEYS unacked, index, leases, parked      ARGV most, key prefix, separator of priority steps
#: `parked` has queue names by the time their first message is due; `parked:<queue>` has that queue's tags by time.
#: Moves parked messages that are due to the head of their lists, and looks for leases that have run out; both
#: from the last to the first, so that the oldest ends at the head.
#: Returns {moved, seconds until the next is due or '', {tag, ...}, {claim, ...}}.
SWEEP: Final = Script(
    _NOW
    + _ENTRY
    + _MAY_GROW
    + _MOVE
    + """
local moved = 0
for _, queue in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', text(now))) do
  local parked = KEYS[4] .. ':' .. queue
  for _, tag in ipairs(redis.call('ZREVRANGEBYSCORE', parked, text(now), '-inf', 'LIMIT', 0, ARGV[1])) do
    move(tag, queue, ARGV[2], ARGV[3])
    redis.call('ZREM', parked, tag)
    moved = moved + 1
  end
  local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')[2]
  if first then redis.call('ZADD', KEYS[4], first, queue) else redis.call('ZREM', KEYS[4], queue) end
end
local next = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
local tags, claims = {}, {}
for _, tag in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[3], text(now), '-inf', 'LIMIT', 0, ARGV[1])) do
  local claim = redis.call('HGET', KEYS[1], tag)
  if claim then
    tags[#tags + 1], claims[#claims + 1] = tag, claim
  else
    redis.call('ZREM', KEYS[3], tag)
    redis.call('ZREM', KEYS[2], tag)
  end
end
return {moved, next and text(tonumber(next) - now) or '', tags, claims}
"""
)

#: KEYS unacked, index, leases, parked      ARGV tag, queue, due, task id, tag, queue, due, task id, ...
#: The claim is kept as `taskq:<priority step>:parked:<task id>`, by which RECALL finds it; a second message of
#: the same task keeps its tag.
PARK: Final = Script(
    _MAY_GROW
    + """
for i = 1, #ARGV, 4 do
  local tag, queue, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('ZREM', KEYS[3], tag) == 1 then
    local claim, name = redis.call('HGET', KEYS[1], tag), string.match(tag, '^taskq:%d*:') .. 'parked:' .. ARGV[i + 3]
    if claim and redis.call('HSETNX', KEYS[1], name, claim) == 1 then
      redis.call('HDEL', KEYS[1], tag)
      redis.call('ZREM', KEYS[2], tag)
      tag = name
    end
    redis.call('ZADD', KEYS[2], due, tag)
    redis.call('ZADD', KEYS[4] .. ':' .. queue, due, tag)
    local first = redis.call('ZSCORE', KEYS[4], queue)
    if not first or tonumber(due) < tonumber(first) then redis.call('ZADD', KEYS[4], due, queue) end
  end
end
"""
)

#: KEYS unacked, index, leases, parked      ARGV key prefix, separator, count of steps, step..., task id...
#: Moves what is parked of these tasks to the heads of their lists.
RECALL: Final = Script(
    _ENTRY
    + _MAY_GROW
    + _MOVE
    + """
local first = 4 + tonumber(ARGV[3])
for _, queue in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  local parked = KEYS[4] .. ':' .. queue
  for i = first, #ARGV do
    for step = 4, first - 1 do
      local tag = 'taskq:' .. ARGV[step] .. ':parked:' .. ARGV[i]
      if redis.call('ZREM', parked, tag) == 1 then move(tag, queue, ARGV[1], ARGV[2]) end
    end
  end
end
"""
)

#: KEYS unacked, index, leases, dead, dead index
#: ARGV most letters, seconds to keep them, then of each: tag, letter id, description
#: A letter is its description (JSON), a line break, the entry as it came.
BURY: Final = Script(
    _NOW
    + _ENTRY
    + _MAY_GROW
    + """
for i = 3, #ARGV, 3 do
  local claim = redis.call('HGET', KEYS[1], ARGV[i])
  if claim then
    redis.call('HSET', KEYS[4], ARGV[i + 1], ARGV[i + 2] .. '\\n' .. entry(claim))
    redis.call('ZADD', KEYS[5], text(now), ARGV[i + 1])
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
  end
end
local function drop(...)
  redis.call('HDEL', KEYS[4], ...)
  redis.call('ZREM', KEYS[5], ...)
end
each(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', text(now - tonumber(ARGV[2]))), 1, drop)
each(redis.call('ZRANGE', KEYS[5], 0, -1 - tonumber(ARGV[1])), 1, drop)
redis.call('EXPIRE', KEYS[4], ARGV[2])
redis.call('EXPIRE', KEYS[5], ARGV[2])
"""
)

#: KEYS dead, dead index      ARGV id...      Returns {letter or nil, ...}, {score or nil, ...}
EXHUME: Final = Script("""
local letters, times = {}, {}
for i, id in ipairs(ARGV) do
  letters[i] = redis.call('HGET', KEYS[1], id)
  times[i] = redis.call('ZSCORE', KEYS[2], id)
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
return {letters, times}
""")

#: KEYS unacked, index, parked, list...      ARGV queue      Returns how many messages were removed.
PURGE: Final = Script(
    _NOW
    + """
local gone, parked = 0, KEYS[3] .. ':' .. ARGV[1]
for i = 4, #KEYS do
  gone = gone + redis.call('LLEN', KEYS[i])
  redis.call('DEL', KEYS[i])
end
each(redis.call('ZRANGE', parked, 0, -1), 1, function(...)
  gone = gone + redis.call('HDEL', KEYS[1], ...)
  redis.call('ZREM', KEYS[2], ...)
end)
redis.call('DEL', parked)
redis.call('ZREM', KEYS[3], ARGV[1])
return gone
"""
)
