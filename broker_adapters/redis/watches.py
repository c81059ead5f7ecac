"""Waiting for states on Redis: subscriptions on a connection of their own, stored states read over another.

Redis counts every reply of a connection with subscriptions against its limit for pub/sub (`client-output-buffer-limit
pubsub`, 32 MB by default) and closes it above that. So a state of that size does not come as a message either: the
connection breaks, is made again, and then the state is read where it is stored.

What changes in one turn of the loop is sent together. A stored state is asked for once its subscription is confirmed:
what is stored later is published to us. After a lost connection all are subscribed and read again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from logging import getLogger
from typing import Any, Final

from taskq.broker_adapters.redis.link import RedisLink
from taskq.broker_adapters.redis.session import RedisSession, Reply
from taskq.broker_adapters.redis.url import Target
from taskq.errors import ConnectionLost, OperationalError, StoreError

logger = getLogger(__name__)

#: The stored states of some channels (keys and channels have the same names). Raises OperationalError.
Read = Callable[[Sequence[str]], Awaitable[Sequence[bytes | None]]]

#: Seconds between two signs of life asked for while someone waits for a result.
HEARTBEAT: Final = 5.0


class RedisWatcher:
    """What one `watch` has still to give out: states as they were stored, or the error that ends it."""

    def __init__(self) -> None:
        self.last: bytes | None = None
        self.present = False
        #: How many states it was told.
        self.told = 0
        self._states: deque[bytes | StoreError] = deque()
        self._news: asyncio.Future[None] | None = None

    def tell(self, state: bytes | StoreError) -> None:
        self._states.append(state)
        self.told += 1
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        if isinstance(state, bytes):
            self.last = state

    def tell_present(self, state: bytes | None, told: int) -> None:
        """The stored state, asked for after so many were told: one that was told since is the same or a later one."""
        self.present = True
        if state is not None and state != self.last and told == self.told:
            self.tell(state)

    async def next(self) -> bytes:
        if not self._states:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        state = self._states.popleft()
        if isinstance(state, StoreError):
            raise state
        return state


class Watches:
    """All watches of one store, by channel."""

    def __init__(self, target: Target, read: Read) -> None:
        self._link = RedisLink(target, on_push=self._on_push, on_connect=self._on_connect)
        self._read = read
        self._watchers: dict[str, list[RedisWatcher]] = {}
        #: What was subscribed to, by which request, and who waits for the stored state.
        self._subscribed: dict[str, asyncio.Future[Reply]] = {}
        self._unread: dict[str, list[RedisWatcher]] = {}
        self._changed: set[str] = set()
        self._tending: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Task[None]] = set()

    def add(self, channel: str) -> RedisWatcher:
        """Begin one."""
        watcher = RedisWatcher()
        self._watchers.setdefault(channel, []).append(watcher)
        self._unread.setdefault(channel, []).append(watcher)
        self._change(channel)
        return watcher

    def remove(self, channel: str, watcher: RedisWatcher) -> None:
        """End one."""
        watchers = self._watchers[channel]
        watchers.remove(watcher)
        if not watchers:
            del self._watchers[channel]
            self._unread.pop(channel, None)
            self._change(channel)

    def count(self, channel: str) -> int:
        """How many have their subscription, and know what is stored."""
        return sum(watcher.present for watcher in self._watchers.get(channel, ()))

    async def close(self) -> None:
        """End all of them with an error."""
        tasks = [*self._reading, *([self._tending] if self._tending is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell(list(self._watchers), "the connection to the result store was closed")
        self._link.close()

    # -- subscriptions

    def _change(self, channel: str) -> None:
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
        wanted = changed & self._watchers.keys()
        self._unsubscribe(session, (changed - wanted) & self._subscribed.keys())
        self._subscribe(session, wanted - self._subscribed.keys())
        self._read_present([channel for channel in wanted if self._subscribed[channel].done()])

    def _subscribe(self, session: RedisSession, channels: Collection[str]) -> None:
        if channels:
            [future] = session.send(("SUBSCRIBE", *channels))
            self._subscribed |= dict.fromkeys(channels, future)
            future.add_done_callback(partial(self._on_answer, session, channels))

    def _unsubscribe(self, session: RedisSession, channels: Collection[str]) -> None:
        if channels:
            [future] = session.send(("UNSUBSCRIBE", *channels))
            for channel in channels:
                del self._subscribed[channel]
            future.add_done_callback(partial(self._on_answer, session, ()))

    def _on_answer(
        self, session: RedisSession, channels: Collection[str], future: asyncio.Future[Reply]
    ) -> None:
        try:
            session.checked(future.result())
        except ConnectionLost as error:
            session.abort(str(error))  # the next session asks again
        except OperationalError as error:
            self._tell(channels, str(error))
        else:
            self._read_present([channel for channel in channels if self._subscribed.get(channel) is future])

    def _on_push(self, push: Sequence[Any]) -> None:
        if push[0] == b"message":
            for watcher in self._watchers.get(push[1].decode(), ()):
                watcher.tell(push[2])

    async def _on_connect(self, session: RedisSession) -> None:
        self._subscribed.clear()
        self._unread = {channel: list(watchers) for channel, watchers in self._watchers.items()}
        self._subscribe(session, list(self._watchers))

    async def _tend(self) -> None:
        """Keep the connection while someone waits: notice a silent death, and connect again."""
        try:
            while self._watchers:
                session = await self._link.retry_until_done(RedisSession.sign_of_life)
                await asyncio.wait([session.closed], timeout=HEARTBEAT)
        except Exception as error:
            if not isinstance(error, OperationalError):  # else it was closed
                logger.exception("the connection for results is tended no more")
            self._tell(list(self._watchers), str(error))
        finally:
            self._tending = None

    # -- stored states

    def _read_present(self, channels: Sequence[str]) -> None:
        fresh = [(channel, watcher) for channel in channels for watcher in self._unread.pop(channel, ())]
        if fresh:
            task = asyncio.create_task(self._tell_present(fresh), name="taskq redis states")
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _tell_present(self, fresh: Sequence[tuple[str, RedisWatcher]]) -> None:
        asked = [(watcher, watcher.told) for _, watcher in fresh]
        try:
            states = await self._read([channel for channel, _ in fresh])
        except OperationalError as error:
            self._tell([channel for channel, _ in fresh], str(error))
            return
        for (watcher, told), state in zip(asked, states, strict=True):
            watcher.tell_present(state, told)

    def _tell(self, channels: Collection[str], why: str) -> None:
        for watcher in [watcher for channel in channels for watcher in self._watchers.get(channel, ())]:
            watcher.tell(StoreError(f"{why}: nobody can wait for results"))
