"""Chords on Redis with Celery's keys, member texts and claims (wire-format.md 4.7).

Members of one chord may run on Celery 5.6, Celery 5.7 and taskq workers, in any mix. Two keys are ours alone: `.f` is
there once a part that failed has returned to a taskq worker, `.a` has the tasks that a chord has grown by.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskq.broker_adapters.redis.link import Script
from taskq.seams.store import CHORD_CLAIM, Claimed, TaskResult
from taskq.states import SUCCESS
from taskq.wire.serializers import Serializer, kombu_text

#: Seconds that the end of a chord is remembered, as by Celery.
KEEP_END: Final = 300
_SUFFIXES: Final = (".j", ".t", ".s", ".d", ".c", ".f", ".a", "")

#: KEYS s, c of each chord      ARGV seconds to keep (0 = for ever), size of each chord
BEGIN: Final = Script("""
for i = 1, #KEYS, 2 do
  if redis.call('GET', KEYS[i + 1]) ~= 'done' and redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('SET', KEYS[i], ARGV[(i + 1) / 2 + 1])
    if ARGV[1] ~= '0' then redis.call('EXPIRE', KEYS[i], ARGV[1]) end
  end
end
""")

#: KEYS j, t, s, d, c, f, a, group      ARGV task id, seconds to keep
GROW: Final = Script("""
if redis.call('GET', KEYS[5]) == 'done' then return end
if redis.call('SADD', KEYS[7], ARGV[1]) == 1 then redis.call('INCR', KEYS[2]) end
if ARGV[2] ~= '0' then
  redis.call('EXPIRE', KEYS[7], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
""")

#: KEYS as above      ARGV task id, member of j, ordered (1 or 0), score, seconds to keep, seconds of a claim, failed (1 or 0)
#: Celery's script with two additions: a part that failed completes the chord, and the token of a claim names its
#: part. Returns nothing, 'claimed', or {parts, saved group or nil}.
JOIN: Final = Script("""
local j, t, s, d, c, f, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[8]
local claim, ordered = redis.call('GET', c), ARGV[3] == '1'
if claim == 'done' then return nil end
local token = ARGV[1] .. ':' .. ARGV[4]
if redis.call('SISMEMBER', d, token) == 0 then
  if ordered then redis.call('ZADD', j, ARGV[4], ARGV[2]) else redis.call('RPUSH', j, ARGV[2]) end
  redis.call('SADD', d, token)
  if ARGV[7] == '1' then redis.call('SET', f, 1) end
end
if ARGV[5] ~= '0' then
  for _, key in ipairs({j, t, s, d, f, KEYS[7], group}) do redis.call('EXPIRE', key, ARGV[5]) end
end
local size, count = redis.call('GET', s), redis.call(ordered and 'ZCARD' or 'LLEN', j)
if not size then return nil end
if count < size + (redis.call('GET', t) or 0) and redis.call('EXISTS', f) == 0 then return nil end
if claim then return claim == token and 'claimed' or nil end
redis.call('SET', c, token, 'EX', ARGV[6])
return {redis.call(ordered and 'ZRANGE' or 'LRANGE', j, 0, -1), redis.call('GET', group)}
""")

#: KEYS as above, of each chord      ARGV seconds to remember
END: Final = Script("""
for i = 1, #KEYS, 8 do
  redis.call('DEL', KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3], KEYS[i + 5], KEYS[i + 6])
  redis.call('SET', KEYS[i + 4], 'done', 'EX', ARGV[1])
end
""")

#: A script, its keys and its arguments.
Call = tuple[Script, Sequence[str], Sequence[Any]]


class ChordCalls:
    """The script calls of chords, and what their answers mean.

    Args:
        prefix: what group ids follow in the names of keys.
        lifetime: seconds that an unfinished chord is kept, 0 for ever.
        ordered: Celery's `result_chord_ordered`: False takes the parts in the order of their return.
    """

    def __init__(self, prefix: str, serializer: Serializer, lifetime: int, *, ordered: bool) -> None:
        self._prefix = prefix
        self._serializer = serializer
        self._lifetime = lifetime
        self._ordered = int(ordered)

    def begin(self, sizes: Mapping[str, int]) -> Call:
        keys = [self._prefix + group_id + suffix for group_id in sizes for suffix in (".s", ".c")]
        return BEGIN, keys, (self._lifetime, *sizes.values())

    def grow(self, group_id: str, task_id: str) -> Call:
        return GROW, self._keys(group_id), (task_id, self._lifetime)

    def join(self, part: TaskResult, index: int | None) -> Call:
        score = "+inf" if index is None else index
        member = self._dumps([1, part.task_id, part.state, part.value])
        failed = int(part.state != SUCCESS)
        args = (part.task_id, member, self._ordered, score, self._lifetime, int(CHORD_CLAIM), failed)
        return JOIN, self._keys(str(part.group_id)), args

    def end(self, group_ids: Sequence[str]) -> Call:
        return END, [key for group_id in group_ids for key in self._keys(group_id)], (KEEP_END,)

    def joined(self, group_id: str | None, reply: Any) -> Sequence[TaskResult] | Claimed | None:
        """The parts in an answer to `join`."""
        if reply is None:
            return None
        if not isinstance(reply, list):
            return Claimed.BY_ITSELF
        members, saved = reply
        parts = [
            TaskResult(task_id, state, value, group_id=group_id)
            for _, task_id, state, value in map(self._serializer.loads, members)
        ]
        return parts if saved is None else structured(self._serializer.loads(saved)["result"], parts)

    def _keys(self, group_id: str) -> list[str]:
        return [self._prefix + group_id + suffix for suffix in _SUFFIXES]

    def _dumps(self, member: Sequence[Any]) -> bytes:
        # 5.6 tells a part that came twice by its text alone.
        return kombu_text(member) if self._serializer.name == "json" else self._serializer.dumps(member)


def structured(group: Sequence[Any], parts: Sequence[TaskResult]) -> Sequence[TaskResult]:
    """The parts in the form of the group that Celery saved for a header with groups in it: a list for each of those.

    A part that failed, or one that the saved group does not know, leaves them as they are.
    """
    known = {part.task_id: part for part in parts}
    if all(part.state == SUCCESS for part in parts):
        shaped = [_shaped(node, known) for node in group[1]]
        if not known:
            return [TaskResult(one[0], SUCCESS, one[1], group_id=parts[0].group_id) for one in shaped]
    return parts


def _shaped(node: Sequence[Any], known: dict[str, TaskResult]) -> tuple[str, Any]:
    (task_id, _), nodes = node
    if nodes is not None:
        return task_id, [_shaped(child, known)[1] for child in nodes]
    part = known.pop(task_id, None)
    return task_id, part.value if part is not None else None
