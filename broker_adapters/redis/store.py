"""Results on Redis as Celery keeps them: same keys, same texts, same channels (wire-format.md 4.2, 4.3, 4.6).

One connection for everything. RESP3 puts the answers of a subscription and of a GET into one stream: SUBSCRIBE and
MGET of all watches that began in one turn of the loop go out together, and what was published before the stored
state was read comes before it. After a lost connection the present states are read again.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from logging import getLogger
from typing import Any, ClassVar, Final, TypeVar

from taskq.broker_adapters.redis.chords import Call, ChordCalls
from taskq.broker_adapters.redis.link import RedisLink, Script
from taskq.broker_adapters.redis.session import RedisSession, Reply
from taskq.broker_adapters.redis.url import parse_target
from taskq.errors import ConnectionLost, DecodeError, EncodeError, OperationalError, StoreError
from taskq.seams.store import Claimed, StoreConfig, TaskResult, join_when_free
from taskq.states import READY
from taskq.wire.compression import inflate_result

logger = getLogger(__name__)

T = TypeVar("T")

TASK_KEY: Final = "celery-task-meta-"
GROUP_KEY: Final = "celery-taskset-meta-"
#: Keys of one command.
CHUNK: Final = 1000
#: Bytes of one call that saves: more would hold the server too long.
PIECE: Final = 4 << 20
#: Seconds between two signs of life asked for while someone waits for a result.
HEARTBEAT: Final = 5.0
#: Longest pause between two tries of one call, in seconds.
RETRY_PAUSE: Final = 0.2

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


class RedisWatcher:
    """What one `watch` has still to give out: states as they were stored, or the error that ends it."""

    def __init__(self) -> None:
        self.last: bytes | None = None
        self.present = False
        self._states: deque[bytes | StoreError] = deque()
        self._news: asyncio.Future[None] | None = None

    def tell(self, state: bytes | StoreError) -> None:
        self._states.append(state)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        if isinstance(state, bytes):
            self.last = state

    def tell_present(self, state: bytes | None) -> None:
        """The stored state was read. What was told before was published before: often the same."""
        self.present = True
        if state is not None and state != self.last:
            self.tell(state)

    async def next(self) -> bytes:
        if not self._states:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        state = self._states.popleft()
        if isinstance(state, StoreError):
            raise state
        return state


class RedisStore:
    """Connects to one Redis; see `taskq.seams.store.ResultStore`."""

    keeps_chords: ClassVar[bool] = True
    reply_to = ""

    def __init__(self, config: StoreConfig) -> None:
        target = parse_target(config.url, config.options, config.ssl, timeout=config.timeout, name="taskq")
        self._link = RedisLink(target, on_push=self._on_push, on_connect=self._on_connect)
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
        self._watches: dict[str, list[RedisWatcher]] = {}
        self._subscribed: set[str] = set()
        self._changed: set[str] = set()
        self._fresh: list[tuple[str, RedisWatcher]] = []
        self._tending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            await self._link.call("PING")
        except OperationalError as error:
            raise StoreError(str(error)) from error

    async def close(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait([self._tending])
        self._end_watches("the connection to the result store was closed")
        self._link.close()

    async def expect(self, task_ids: Sequence[str]) -> None:
        """Nothing to prepare: results are kept whether someone waits or not."""

    # -- states

    async def save(self, results: Sequence[TaskResult]) -> None:
        keys: list[str] = []
        payloads: list[bytes] = []
        size = 0
        for result in results:
            payload = self._serializer.dumps(result.payload())
            keys.append(self._task_key + result.task_id)
            payloads.append(payload)
            size += len(payload)
            if size > PIECE or len(keys) >= CHUNK:
                await self._save(keys, payloads)
                keys, payloads, size = [], [], 0
        if keys:
            await self._save(keys, payloads)

    async def _save(self, keys: Sequence[str], payloads: Sequence[bytes]) -> None:
        await self._try(lambda session: SAVE.run(session, keys, (self._lifetime, *payloads)))

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        found: list[TaskResult | None] = []
        for at in range(0, len(task_ids), CHUNK):
            keys = [self._task_key + task_id for task_id in task_ids[at : at + CHUNK]]
            raws = await self._try(partial(_call, command=("MGET", *keys)))
            found += [None if raw is None else self._read(raw) for raw in raws]
        return found

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
        call = self._chords.join(part, index)

        async def attempt() -> Sequence[TaskResult] | Claimed | None:
            return self._chords.joined(part.group_id, await self._run(call))

        return await join_when_free(attempt)

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
        channel, watcher = self._task_key + task_id, RedisWatcher()
        try:
            channel.encode()
        except UnicodeEncodeError as error:  # it would end the subscriptions of all others
            raise EncodeError(f"{task_id!r} is no id of a task: {error}") from error
        self._watches.setdefault(channel, []).append(watcher)
        self._fresh.append((channel, watcher))
        self._change(channel)
        try:
            final = False
            while not final:
                result = self._read(await watcher.next())
                final = result.state in READY
                yield result
        finally:
            watchers = self._watches[channel]
            watchers.remove(watcher)
            if not watchers:
                del self._watches[channel]
                self._change(channel)

    def watchers(self, task_id: str) -> int:
        """How many watches of a task have their subscription."""
        return sum(watcher.present for watcher in self._watches.get(self._task_key + task_id, ()))

    def _change(self, channel: str) -> None:
        """What changes in one turn of the loop is sent together."""
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._apply_changes)
        self._changed.add(channel)
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend(), name="taskq redis results")

    def _apply_changes(self) -> None:
        changed, self._changed = self._changed, set()
        session = self._link.live
        if session is None:
            return  # a new session begins with all that is wanted
        wanted = changed & self._watches.keys()
        self._send_subscriptions(session, wanted - self._subscribed, (changed - wanted) & self._subscribed)
        fresh, self._fresh = self._fresh, []
        self._read_present(session, fresh)

    def _send_subscriptions(self, session: RedisSession, new: set[str], old: set[str]) -> None:
        self._subscribed |= new
        self._subscribed -= old
        commands = [("SUBSCRIBE", *new)] if new else []
        commands += [("UNSUBSCRIBE", *old)] if old else []
        if commands:
            for future in session.send(*commands):
                future.add_done_callback(partial(self._on_refusal, session, new))

    def _on_refusal(self, session: RedisSession, channels: set[str], future: asyncio.Future[Reply]) -> None:
        try:
            session.checked(future.result())
        except ConnectionLost as error:
            session.abort(str(error))  # the next session asks again
        except OperationalError as error:
            for channel in channels & self._watches.keys():
                for watcher in self._watches[channel]:
                    watcher.tell(StoreError(f"{error}: nobody can wait for results"))

    def _read_present(self, session: RedisSession, watches: Sequence[tuple[str, RedisWatcher]]) -> None:
        for at in range(0, len(watches), CHUNK):
            part = watches[at : at + CHUNK]
            [future] = session.send(("MGET", *(channel for channel, _ in part)))
            future.add_done_callback(partial(self._on_present, session, [watcher for _, watcher in part]))

    def _on_present(
        self, session: RedisSession, watchers: Sequence[RedisWatcher], future: asyncio.Future[Reply]
    ) -> None:
        try:
            states = session.checked(future.result())
        except ConnectionLost as error:
            session.abort(str(error))  # the next session asks again
        except OperationalError as error:
            for watcher in watchers:
                watcher.tell(StoreError(f"{error}: nobody can wait for results"))
        else:
            for watcher, state in zip(watchers, states, strict=True):
                watcher.tell_present(state)

    def _on_push(self, push: Sequence[Any]) -> None:
        if push[0] == b"message":
            for watcher in self._watches.get(push[1].decode(), ()):
                watcher.tell(push[2])

    async def _on_connect(self, session: RedisSession) -> None:
        self._subscribed.clear()
        self._fresh.clear()
        self._send_subscriptions(session, set(self._watches), set())
        watches = [(channel, watcher) for channel, watchers in self._watches.items() for watcher in watchers]
        self._read_present(session, watches)

    async def _tend(self) -> None:
        """Keep the connection while someone waits: notice a silent death, and connect again."""
        try:
            while self._watches:
                session = await self._link.retry_until_done(self._sign_of_life)
                await asyncio.wait([session.closed], timeout=HEARTBEAT)
        except Exception as error:
            if not isinstance(error, OperationalError):  # else it was closed
                logger.exception("the connection for results is tended no more")
            self._end_watches(str(error))
        finally:
            self._tending = None

    def _end_watches(self, why: str) -> None:
        for watcher in [watcher for watchers in self._watches.values() for watcher in watchers]:
            watcher.tell(StoreError(f"{why}: nobody can wait for results"))

    async def _sign_of_life(self, session: RedisSession) -> RedisSession:
        try:
            await session.call("PING")
        except ConnectionLost:
            raise
        except OperationalError:
            pass  # refused (MISCONF): that is an answer, too
        return session

    # -- helpers

    async def _try(self, action: Callable[[RedisSession], Awaitable[T]]) -> T:
        """Do this, which may safely be done twice, again after a lost connection until the timeout is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while True:
            try:
                return await self._link.once(action)
            except OperationalError as error:
                pause = RETRY_PAUSE * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
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


def _key_prefix(prefix: str) -> str:
    """Celery's rule: an underscore follows unless the prefix ends in a separator (wire-format.md 4.2)."""
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"
