"""The bus over Redis: PUB/SUB for everyone, lists for replies, as Celery has them (wire-format.md 2.8, 8)."""

import asyncio
import re
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, Final
from uuid import uuid4

from taskq.broker_adapters.redis.hearing import Hearing
from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import RedisLink
from taskq.broker_adapters.redis.session import RedisSession
from taskq.clock import now
from taskq.errors import DecodeError, OperationalError
from taskq.seams.bus import Arrivals, Exchange, Inbox
from taskq.seams.exchanges import fits
from taskq.seams.retry import Backoff
from taskq.wire.envelope import dumps, loads
from taskq.wire.message import Message

logger = getLogger(__name__)

#: Characters with a meaning in a Redis pattern.
_GLOB: Final = re.compile(r"([\[\]*?^\\-])")
#: What stands for words in a topic, with the dots that go with no words.
_WORDS: Final = re.compile(r"\.?#\.?|\*")
#: Seconds a list of replies outlives its listener, and its binding is kept from kombu's sweep (2.1).
_REPLIES_KEPT, _BINDING_KEPT = 10.0, 3600.0
#: Seconds of one blocking pop: shorter than what a reply may take (`redis_session.REPLY_TIMEOUT`).
_BLOCK: Final = 2


class Subscriber(Arrivals):
    """Listens to channels; see `taskq.seams.bus.Listener`."""

    def __init__(self, bus: "RedisBus", pattern: bytes, inbox: Inbox, most: int) -> None:
        super().__init__(most)
        self.pattern = pattern
        self._inbox = inbox
        self._bus = bus

    def take(self, raw: bytes) -> None:
        """What came by the pattern, which Redis cannot read as words."""
        _add(self, raw, self._inbox)

    async def close(self) -> None:
        await self._bus.leave(self)
        self.end()


class ReplyList(Arrivals):
    """Listens to a list of its own over a connection of its own, which the pop blocks."""

    def __init__(self, link: RedisLink, shared: RedisLink, layout: Layout, inbox: Inbox) -> None:
        super().__init__(layout.retention.announced)
        self._link = link
        self._shared = shared
        self._layout = layout
        self._inbox = inbox
        self._keys = [key for key, _, _ in layout.lists([inbox.name])]
        self._member = layout.reply_binding(inbox.key, inbox.name)
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        table, _ = self._layout.bindings(self._inbox.exchange.name)
        await self._shared.call("SADD", table, self._member)
        deadline = int((now() + _BINDING_KEPT) * 1000)
        await self._shared.call("ZADD", self._layout.deadlines, "GT", deadline, self._inbox.exchange.name)
        self._reader = asyncio.create_task(self._follow(), name="taskq-redis-replies")

    async def close(self) -> None:
        """Leave nothing behind."""
        if self.ended:
            return
        self.end()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._link.close()
        table, _ = self._layout.bindings(self._inbox.exchange.name)
        try:
            await self._shared.call("SREM", table, self._member)
            await self._shared.call("DEL", *self._keys)
        except OperationalError as error:
            logger.debug("%s; the list of replies expires", error)

    async def _follow(self) -> None:
        pauses = Backoff()
        while True:
            try:
                popped = await self._link.retry_until_done(
                    lambda session: session.call("BRPOP", *self._keys, _BLOCK)
                )
                pauses.reset()
            except OperationalError as error:
                logger.warning("%s; replies wait", error)
                popped = None
                await asyncio.sleep(pauses.next())
            if popped is not None:
                _add(self, popped[1], self._inbox)


class RedisBus:
    """See `taskq.seams.bus.Bus`. Subscriptions are made again after their connection broke."""

    def __init__(
        self, link: RedisLink, hearing: Hearing, layout: Layout, another: Callable[[], RedisLink]
    ) -> None:
        self._link = link
        self._hearing = hearing
        self._layout = layout
        self._another = another
        self._subscribers: dict[bytes, list[Subscriber]] = {}
        self._lists: list[ReplyList] = []

    async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        if not messages:
            return
        if exchange.kind == "direct":
            commands = await self._replies(exchange, messages)
        else:
            commands = [
                ("PUBLISH", self._layout.channel(exchange.name, message.routing_key), self._envelope(message))
                for message in messages
            ]
        session = await self._link.session()
        for future in session.send(*commands) if commands else ():
            session.checked(await future)

    async def _replies(self, exchange: Exchange, messages: Sequence[Message]) -> list[tuple[Any, ...]]:
        """Only what somebody waits for: a list that nobody reads would stay (8.3).

        Whatever else is bound to the exchange gets nothing: these lists expire.
        """
        table, _ = self._layout.bindings(exchange.name)
        inboxes = [exchange.reply_inbox(message.routing_key) for message in messages]
        keys = [message.routing_key for message in messages]
        members = [self._layout.reply_binding(key, inbox) for key, inbox in zip(keys, inboxes, strict=True)]
        commands: list[tuple[Any, ...]] = []
        bound = await self._link.call("SMISMEMBER", table, *members)
        for message, inbox, is_bound in zip(messages, inboxes, bound, strict=True):
            if is_bound:
                key = self._layout.key(inbox, 0)
                commands.append(("LPUSH", key, self._envelope(message)))
                commands.append(("PEXPIRE", key, int(_REPLIES_KEPT * 1000)))
        return commands

    def _envelope(self, message: Message) -> bytes:
        return dumps(message, delivery_tag=str(uuid4()), body_encoding=self._layout.body_encoding, priority=0)

    async def listen(self, inbox: Inbox) -> "Subscriber | ReplyList":
        if inbox.exchange.kind == "direct":
            replies = ReplyList(self._another(), self._link, self._layout, inbox)
            await replies.open()
            self._lists = [known for known in self._lists if not known.ended]
            self._lists.append(replies)
            return replies
        pattern = glob(self._layout.channel(inbox.exchange.name, inbox.key))
        subscriber = Subscriber(self, pattern, inbox, self._layout.retention.announced)
        session = await self._hearing.session()
        self._subscribers.setdefault(subscriber.pattern, []).append(subscriber)
        await session.call("PSUBSCRIBE", subscriber.pattern)
        return subscriber

    async def leave(self, subscriber: Subscriber) -> None:
        others = self._subscribers.get(subscriber.pattern, [])
        if subscriber not in others:
            return
        others.remove(subscriber)
        if others:
            return
        del self._subscribers[subscriber.pattern]
        if (session := self._hearing.live) is not None:
            try:
                await session.call("PUNSUBSCRIBE", subscriber.pattern)
            except OperationalError as error:
                logger.debug("%s; the subscription went with the connection", error)

    async def close(self) -> None:
        for replies in self._lists:
            await replies.close()
        for subscriber in [one for several in self._subscribers.values() for one in several]:
            await subscriber.close()

    # -- called by the broker

    async def on_connect(self, session: RedisSession) -> None:
        if self._subscribers:
            await session.call("PSUBSCRIBE", *self._subscribers)

    def take_push(self, push: Sequence[Any]) -> None:
        if push[0] == b"pmessage":
            for subscriber in self._subscribers.get(push[1], ()):
                subscriber.take(push[-1])


def glob(channel: str) -> bytes:
    """The pattern of Redis for a topic: it takes all that AMQP's rule takes, and more, since it knows no words.

    >>> glob("/0.celeryev/task.#")
    b'/0.celeryev/task*'
    """
    free = _WORDS.sub("\0", channel)
    return _GLOB.sub(r"\\\1", free).replace("\0", "*").encode()


def _add(arrivals: Arrivals, raw: bytes, inbox: Inbox) -> None:
    try:
        message = loads(raw)
    except DecodeError as error:
        logger.warning("dropped an unreadable message of the bus: %s", error)
        return
    if inbox.exchange.kind != "topic" or fits(inbox.key, message.routing_key):
        arrivals.add(message)
