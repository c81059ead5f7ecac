"""Redis as a broker, on the layout of Celery's own transport: taskq and Celery share queues in any mix.

Facts: celery-protocol.md 2 and 13. One connection for everything. Nothing is ever popped outside the claim script.
"""

from collections.abc import Collection, Sequence
from time import time
from typing import Any, ClassVar, Final

import orjson

from taskq.broker import BrokerConfig, Features, Queue
from taskq.broker_adapters.redis_bus import RedisBus
from taskq.broker_adapters.redis_claims import renew
from taskq.broker_adapters.redis_consumer import KEEP_DEAD, RedisConsumer
from taskq.broker_adapters.redis_layout import read_layout
from taskq.broker_adapters.redis_publisher import RedisPublisher
from taskq.broker_adapters.redis_scripts import EXHUME, PURGE
from taskq.envelope import dumps, loads
from taskq.errors import DecodeError
from taskq.message import DeadLetter, Delivery, Message
from taskq.redis_link import Link
from taskq.redis_session import Session
from taskq.redis_url import parse_target

#: Revoked ids kept; those that end first make room.
REVOKED: Final = 50_000
#: Seconds for which the whole set is kept after the last revoke.
KEEP_REVOKED: Final = 30 * 86400


class RedisBroker:
    """Connects to one Redis; see `taskq.broker.Broker`.

    Messages with a `due` are delivered at once, as Celery does: their worker holds them, or parks them here.
    """

    features: ClassVar[Features] = Features(leases=True, once=True)

    def __init__(self, config: BrokerConfig) -> None:
        target = parse_target(
            config.url, config.options, config.ssl, timeout=config.timeout, name=config.name
        )
        self._lease = config.lease
        self._queue = config.queue
        self._layout = read_layout(config.options, target.endpoints[0].db)
        self._link = Link(target, on_push=self._on_push, on_connect=self._on_connect)
        self._publisher = RedisPublisher(self._link, self._layout, target.shown, config.queue, config.timeout)
        self._consumers: list[RedisConsumer] = []
        self.bus = RedisBus(self._link, self._layout, lambda: Link(target))

    async def open(self) -> None:
        await self._link.call("PING")

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()
        await self.bus.close()
        self._link.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._publisher.publish(messages)

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> RedisConsumer:
        consumer = RedisConsumer(
            self._link, self._layout, self._declared, prefetch=prefetch, lease=self._lease
        )
        await consumer.turn_to(queues)
        self._consumers.append(consumer)
        await consumer.on_connect(await self._link.session())
        return consumer

    async def _declared(self, queues: Sequence[str]) -> Sequence[Queue]:
        await self._publisher.declare(await self._link.session(), queues)
        return [self._queue(name) for name in queues]

    # -- sizes

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        return await renew(self._link, self._layout, self._lease, held)

    async def size(self, queue: str) -> int:
        session = await self._link.session()
        commands = [("LLEN", key) for key, _, _ in self._layout.lists([queue])]
        futures = session.send(*commands, ("ZCARD", self._layout.own(f"parked:{queue}")))
        return sum([session.checked(await future) for future in futures])

    async def purge(self, queue: str) -> int:
        lists = [key for key, _, _ in self._layout.lists([queue])]
        keys = (*self._layout.custody[:2], self._layout.own("parked"), *lists)
        removed: int = await self._link.run(PURGE, keys, [queue])
        return removed

    # -- revoked

    async def revoke(self, task_ids: Sequence[str], until: float) -> None:
        if not task_ids:
            return
        key = self._layout.own("revoked")
        session = await self._link.session()
        members = [value for task_id in task_ids for value in (f"{until:.6f}", task_id)]
        futures = session.send(
            ("ZADD", key, "GT", *members),
            ("ZREMRANGEBYSCORE", key, "-inf", f"{time():.6f}"),
            ("ZREMRANGEBYRANK", key, 0, -1 - REVOKED),
            ("EXPIRE", key, KEEP_REVOKED),
        )
        for future in futures:
            session.checked(await future)

    async def revoked(self, task_ids: Sequence[str]) -> Collection[str]:
        if not task_ids:
            return set()
        ends = await self._link.call("ZMSCORE", self._layout.own("revoked"), *task_ids)
        now = time()
        return {task_id for task_id, end in zip(task_ids, ends, strict=True) if end is not None and end > now}

    # -- dead letters

    async def dead(self, limit: int = 1000) -> Sequence[DeadLetter]:
        key, index = self._dead_keys
        found = await self._link.call("ZRANGE", index, 0, limit - 1, "REV", "WITHSCORES")
        if not found:
            return []
        letters = await self._link.call("HMGET", key, *(name for name, _ in found))
        pairs = zip(found, letters, strict=True)
        return [_letter(name, at, letter) for (name, at), letter in pairs if letter is not None]

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        key, index = self._dead_keys
        commands: list[Sequence[Any]] = [("MULTI",)]
        for letter in letters:
            entry = letter.raw if letter.message is None else dumps(letter.message, delivery_tag=letter.id)
            about = orjson.dumps({"queue": letter.queue, "reason": letter.reason})
            commands.append(("HSET", key, letter.id, about + b"\n" + entry))
            commands.append(("ZADD", index, f"{letter.at:.6f}", letter.id))
        commands += [("EXPIRE", key, KEEP_DEAD), ("EXPIRE", index, KEEP_DEAD), ("EXEC",)]
        session = await self._link.session()
        for future in session.send(*commands):
            session.checked(await future)

    async def exhume(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        if not ids:
            return []
        letters, times = await self._link.run(EXHUME, self._dead_keys, list(dict.fromkeys(ids)))
        found = zip(dict.fromkeys(ids), times, letters, strict=True)
        return [
            _letter(name.encode(), float(at or 0), letter) for name, at, letter in found if letter is not None
        ]

    @property
    def _dead_keys(self) -> tuple[str, str]:
        return self._layout.own("dead"), self._layout.own("dead:index")

    # -- called by the link

    async def _on_connect(self, session: Session) -> None:
        await self._publisher.on_connect(session)
        await self.bus.on_connect(session)
        for consumer in self._consumers:
            await consumer.on_connect(session)

    def _on_push(self, push: Sequence[Any]) -> None:
        self.bus.take_push(push)
        for consumer in self._consumers:
            consumer.take_push(push)


def _letter(name: bytes, at: float, letter: bytes) -> DeadLetter:
    about, _, entry = letter.partition(b"\n")
    read = orjson.loads(about)
    try:
        message, raw = loads(entry), b""
    except DecodeError:
        message, raw = None, entry
    return DeadLetter(name.decode(), read["queue"], read["reason"], at, message, raw)
