"""Results on Redis as Celery keeps them: same keys, same texts, same channels (wire-format.md 4.2, 4.3, 4.6).

One connection for everything but subscriptions (`watches.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from logging import getLogger
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from taskq.broker_adapters.redis.chords import Call, ChordCalls
from taskq.broker_adapters.redis.link import RedisLink, Script, run_scripts
from taskq.broker_adapters.redis.session import KeyTaken, RedisSession, Reply
from taskq.broker_adapters.redis.url import Target, parse_target
from taskq.broker_adapters.redis.watches import Watches
from taskq.errors import (
    ConnectionLost,
    DecodeError,
    EncodeError,
    OperationalError,
    Refused,
    SaveErrors,
    StoreError,
)
from taskq.seams.retry import Backoff
from taskq.seams.store import (
    Claimed,
    Joined,
    ResultStore,
    StoreConfig,
    TaskResult,
    check_part,
    join_when_free,
    storable,
)
from taskq.states import READY
from taskq.wire.compression import inflate_result

logger = getLogger(__name__)

T = TypeVar("T")
#: One way of doing something on a session: once, again until the timeout, or for ever.
Attempt = Callable[[Callable[[RedisSession], Awaitable[Reply]]], Awaitable[Reply]]

TASK_KEY: Final = "celery-task-meta-"
GROUP_KEY: Final = "celery-taskset-meta-"
#: Keys of one command.
CHUNK: Final = 1000
#: Bytes of one call that saves: more would hold the server too long.
PIECE: Final = 4 << 20
#: The most bytes of one value that Redis takes (`proto-max-bulk-len` as it comes); it closes the connection on more.
LARGEST: Final = 512 << 20
#: Longest pause between two tries of one call, in seconds.
LONGEST_PAUSE: Final = 0.2

#: KEYS result...      ARGV milliseconds to keep (0 = for ever), payload...
#: A stored SUCCESS is final. Celery's check is a GET before; here nothing comes between. The text tells, if it is
#: ours or Celery's; another writer's JSON is decoded, other formats (pickle, msgpack) have the state near the start.
SAVE: Final = Script("""
local function done(key)
  local head = redis.call('GETRANGE', key, 0, 63)
  if head == '' then return false end
  if string.match(head, '^{"status": ?"') then return string.match(head, '^{"status": ?"SUCCESS"') end
  if string.sub(head, 1, 1) ~= '{' then return string.find(head, 'status%W*SUCCESS') end
  local read, value = pcall(cjson.decode, redis.call('GET', key))
  return read and type(value) == 'table' and value.status == 'SUCCESS'
end
for i, key in ipairs(KEYS) do
  if not done(key) then
    if ARGV[1] == '0' then
      redis.call('SET', key, ARGV[i + 1])
    else
      redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
    end
    redis.call('PUBLISH', key, ARGV[i + 1])
  end
end
""")


class StateToSave(NamedTuple):
    """One state on its way: its place in the batch, its key, and what is stored."""

    place: int
    key: str
    payload: bytes


class RedisStore(ResultStore):
    """Connects to one Redis; see `taskq.seams.store.ResultStore`."""

    keeps_chords: ClassVar[bool] = True

    def __init__(self, config: StoreConfig) -> None:
        self._link = RedisLink(_target(config))
        self._watches = Watches(_target(config), self._present)
        self._timeout = config.timeout
        self._lifetime = int((config.expires or 0) * 1000)
        self._serializer = config.serializer
        prefix = _key_prefix(config.options.get("global_keyprefix", ""))
        self._task_key = prefix + TASK_KEY
        self._group_key = prefix + GROUP_KEY
        self._chords = ChordCalls(
            self._group_key,
            config.serializer,
            int(config.expires or 0),
            ordered=bool(config.options.get("result_chord_ordered", True)),
        )

    async def open(self) -> None:
        try:
            await self._link.call("PING")
        except OperationalError as error:
            raise StoreError(str(error)) from error

    async def close(self) -> None:
        await self._watches.close()
        self._link.close()

    # -- states

    async def save(self, results: Sequence[TaskResult]) -> None:
        failures: dict[int, Refused] = {}
        states: list[StateToSave] = []
        size = 0
        for index, result in storable(results, failures):
            payload = self._serializer.dumps(result.payload())
            if len(payload) > LARGEST:
                failures[index] = Refused(
                    f"the result of {result.task_id} has {len(payload):,} bytes: Redis takes 512 MB"
                )
                continue
            states.append(StateToSave(index, self._task_key + result.task_id, payload))
            size += len(payload)
            if size > PIECE or len(states) >= CHUNK:
                await self._save(states, failures)
                states, size = [], 0
        if states:
            await self._save(states, failures)
        if failures:
            raise SaveErrors(failures)

    async def _save(self, states: Sequence[StateToSave], failures: dict[int, Refused]) -> None:
        """Save together, and one by one where one of the keys is taken by something else."""
        args = (self._lifetime, *(state.payload for state in states))
        try:
            await self._try(lambda session: SAVE.run(session, [state.key for state in states], args))
        except KeyTaken as error:
            if len(states) == 1:
                failures[states[0].place] = Refused(str(error))
                return
            for state in states:
                await self._save([state], failures)

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        raws = await self._states([self._task_key + task_id for task_id in task_ids], self._try)
        return [None if raw is None else self._read(raw) for raw in raws]

    async def _present(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """For watches, which outlast any lost connection."""
        return await self._states(keys, self._link.retry_until_done)

    async def _states(self, keys: Sequence[str], attempt: Attempt) -> list[bytes | None]:
        raws: list[bytes | None] = []
        for at in range(0, len(keys), CHUNK):
            raws += await attempt(partial(_call, command=("MGET", *keys[at : at + CHUNK])))
        return raws

    async def forget(self, task_ids: Sequence[str]) -> None:
        if task_ids:
            keys = [self._task_key + task_id for task_id in task_ids]
            await self._try(lambda session: session.call("DEL", *keys))

    # -- chords

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        if sizes:
            await self._run(self._chords.begin(sizes))

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        await self._run(self._chords.grow(group_id, task_id))

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        check_part(part, index)
        call = self._chords.join(part, index)

        async def attempt() -> Sequence[TaskResult] | Claimed | None:
            return self._chords.joined(part.group_id, await self._run(call))

        try:
            return await join_when_free(attempt)
        except KeyTaken as error:
            raise Refused(str(error)) from error

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        """In one round trip."""
        answers: list[Joined] = [None] * len(parts)
        calls: dict[int, Call] = {}
        for number, (part, index) in enumerate(parts):
            try:
                check_part(part, index)
                calls[number] = self._chords.join(part, index)
            except (EncodeError, Refused) as error:
                answers[number] = error

        async def action(session: RedisSession) -> list[Joined]:
            replies = await run_scripts(session, list(calls.values()))
            groups = [parts[number][0].group_id for number in calls]
            return [self._joined(session, *one) for one in zip(groups, replies, strict=True)]

        for number, joined in zip(calls, await self._try(action), strict=True):
            answers[number] = joined
        return answers

    def _joined(self, session: RedisSession, group_id: str | None, reply: Reply) -> Joined:
        try:
            return self._chords.joined(group_id, session.checked(reply))
        except ConnectionLost:
            raise
        except KeyTaken as error:
            return Refused(str(error))
        except OperationalError as error:
            return StoreError(str(error))
        except (Refused, DecodeError) as error:
            return error

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        if group_ids:
            await self._run(self._chords.end(group_ids))

    async def _run(self, call: Call) -> Any:
        script, keys, args = call
        return await self._try(lambda session: script.run(session, keys, args))

    # -- groups

    async def save_group(self, group_id: str, data: Any) -> None:
        key, payload = self._group_key + group_id, self._serializer.dumps(data)
        lifetime = ("PX", self._lifetime) if self._lifetime else ()

        async def action(session: RedisSession) -> None:
            for future in session.send(("SET", key, payload, *lifetime), ("PUBLISH", key, payload)):
                session.checked(await future)

        await self._try(action)

    async def load_group(self, group_id: str) -> Any:
        raw = await self._try(lambda session: session.call("GET", self._group_key + group_id))
        return None if raw is None else self._decode(raw)

    async def forget_group(self, group_id: str) -> None:
        await self._try(lambda session: session.call("DEL", self._group_key + group_id))

    # -- watch

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        channel = self._task_key + task_id
        try:
            channel.encode()
        except UnicodeEncodeError as error:  # it would end the subscriptions of all others
            raise EncodeError(f"{task_id!r} is no id of a task: {error}") from error
        watcher = self._watches.add(channel)
        try:
            final = False
            while not final:
                result = self._read(await watcher.next())
                final = result.state in READY
                yield result
        finally:
            self._watches.remove(channel, watcher)

    def watchers(self, task_id: str) -> int:
        """How many watches of a task have their subscription."""
        return self._watches.count(self._task_key + task_id)

    # -- helpers

    async def _try(self, action: Callable[[RedisSession], Awaitable[T]]) -> T:
        """Do this, which may safely be done twice, again after a lost connection until the timeout is over."""
        loop = asyncio.get_running_loop()
        deadline, pauses = loop.time() + self._timeout, Backoff(longest=LONGEST_PAUSE)
        while True:
            try:
                return await self._link.once(action)
            except KeyTaken:
                raise  # whose key it is decides what that means
            except OperationalError as error:
                pause = pauses.next()
                if not isinstance(error, ConnectionLost) or loop.time() + pause > deadline:
                    raise StoreError(str(error)) from error
            await asyncio.sleep(pause)

    def _read(self, raw: bytes) -> TaskResult:
        value = self._decode(raw)
        try:
            return TaskResult.from_payload(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"a stored result is no Celery result: {error!r}") from error

    def _decode(self, raw: bytes) -> Any:
        try:
            return self._serializer.loads(inflate_result(raw))
        except DecodeError as error:
            raise StoreError(f"a stored value cannot be read ({self._serializer.name}): {error}") from error


async def _call(session: RedisSession, *, command: Sequence[Any]) -> Reply:
    return await session.call(*command)


def _target(config: StoreConfig) -> Target:
    return parse_target(config.url, config.options, config.ssl, timeout=config.timeout, name="taskq")


def _key_prefix(prefix: str) -> str:
    """Celery's rule: an underscore follows unless the prefix ends in a separator (wire-format.md 4.2)."""
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"
