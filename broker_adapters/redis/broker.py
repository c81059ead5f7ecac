"""Redis as a broker, on the layout of Celery's own transport: taskq and Celery share queues in any mix.

Facts: wire-format.md 2 and 13. One connection for everything but subscriptions (`hearing.py`). Nothing is ever
popped outside the claim script.
"""

from collections.abc import Collection, Sequence
from logging import getLogger
from typing import Any, ClassVar, Final

from taskq.broker_adapters.redis import dead as redis_dead
from taskq.broker_adapters.redis.bus import RedisBus
from taskq.broker_adapters.redis.claims import renew
from taskq.broker_adapters.redis.consumer import RedisConsumer
from taskq.broker_adapters.redis.durability import read_durability
from taskq.broker_adapters.redis.hearing import Hearing
from taskq.broker_adapters.redis.layout import read_layout
from taskq.broker_adapters.redis.link import RedisLink
from taskq.broker_adapters.redis.publisher import RedisPublisher
from taskq.broker_adapters.redis.revoked import RevokedIds
from taskq.broker_adapters.redis.scripts import PURGE, RECALL
from taskq.broker_adapters.redis.session import RedisSession
from taskq.broker_adapters.redis.url import Target, parse_target
from taskq.errors import ConnectionLost, OperationalError
from taskq.seams.broker import Broker, BrokerConfig, Features, Queue
from taskq.wire.message import DeadLetter, Delivery, Message

logger = getLogger(__name__)

#: Tasks looked for by one call: it holds the server for some milliseconds.
RECALLED: Final = 500


class RedisBroker(Broker):
    """Connects to one Redis; see `taskq.seams.broker.Broker`.

    Messages with a `due` are delivered at once, as Celery does: their worker holds them, or parks them here.
    """

    features: ClassVar[Features] = Features(leases=True, celery=True, once=True)

    def __init__(self, config: BrokerConfig) -> None:
        target = _target(config)
        self._lease = config.lease
        self._queue = config.queue
        self._shown = target.shown
        self._layout = read_layout(config.options, target.endpoints[0].db, config.retention)
        self._link = RedisLink(target, on_push=self._on_push, on_connect=self._on_connect)
        durability = read_durability(config.options, config.timeout)
        # Waiting for disks and replicas holds a connection, and is about what was written on that one.
        self._sending = (
            RedisLink(_target(config), on_connect=self._on_sending_connect) if durability else self._link
        )
        self._publisher = RedisPublisher(self._sending, self._layout, target.shown, config, durability)
        self._consumers: list[RedisConsumer] = []
        self._revoked = RevokedIds(self._link, self._layout)
        subscribed = RedisLink(_target(config), on_push=self._on_push, on_connect=self._on_hearing_connect)
        self._hearing = Hearing(subscribed)
        self.bus: RedisBus = RedisBus(
            self._link, self._hearing, self._layout, lambda: RedisLink(_target(config))
        )

    async def open(self) -> None:
        await self._link.call("PING")
        await self._sending.session()
        await warn_of_eviction(self._link, self._shown)

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()
        await self.bus.close()
        await self._hearing.close()
        self._sending.close()
        self._link.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._publisher.publish(messages)

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> RedisConsumer:
        consumer = RedisConsumer(
            self._link, self._hearing, self._layout, self._declared, prefetch=prefetch, lease=self._lease
        )
        self._consumers.append(consumer)
        await consumer.subscribe(queues)
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

    async def ready(self, queue: str) -> int:
        session = await self._link.session()
        futures = session.send(*[("LLEN", key) for key, _, _ in self._layout.lists([queue])])
        return sum([session.checked(await future) for future in futures])

    async def purge(self, queue: str) -> int:
        lists = [key for key, _, _ in self._layout.lists([queue])]
        keys = (*self._layout.custody[:2], self._layout.own("parked"), *lists)
        removed: int = await self._link.run(PURGE, keys, [queue])
        return removed

    async def promote(self, queue: str) -> None:
        parked = self._layout.own("parked")
        key = f"{parked}:{queue}"
        session = await self._link.session()
        commands = (
            ("MULTI",),
            ("ZUNIONSTORE", key, 1, key, "WEIGHTS", 0),
            ("ZADD", parked, "XX", 0, queue),
            ("EXEC",),
        )
        for future in session.send(*commands):
            session.checked(await future)

    async def recall(self, task_ids: Sequence[str]) -> None:
        layout = self._layout
        keys = (*layout.custody, layout.own("parked"))
        about = (layout.prefix, layout.separator, len(layout.steps), *layout.steps)
        for start in range(0, len(task_ids), RECALLED):
            await self._link.run(RECALL, keys, (*about, *task_ids[start : start + RECALLED]))

    # -- revoked

    async def revoke(self, task_ids: Sequence[str], until: float) -> None:
        await self._revoked.add(task_ids, until)

    async def revoked(self, task_ids: Sequence[str]) -> Collection[str]:
        return await self._revoked.among(task_ids)

    # -- dead letters

    async def dead(self, limit: int = 1000) -> Sequence[DeadLetter]:
        return await redis_dead.dead(self._link, self._layout, limit)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await redis_dead.bury(await self._link.session(), self._layout, letters)

    async def revive(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        return await redis_dead.revive(self._link, self._layout, ids)

    # -- called by the link

    async def _on_sending_connect(self, session: RedisSession) -> None:
        await self._publisher.on_connect(session)

    async def _on_connect(self, session: RedisSession) -> None:
        if self._sending is self._link:
            await self._publisher.on_connect(session)
        for consumer in self._consumers:
            await consumer.on_connect(session)

    async def _on_hearing_connect(self, session: RedisSession) -> None:
        await self.bus.on_connect(session)
        for consumer in self._consumers:
            await consumer.on_hearing_connect(session)

    def _on_push(self, push: Sequence[Any]) -> None:
        self.bus.take_push(push)
        self._revoked.take_push(push)
        for consumer in self._consumers:
            consumer.take_push(push)


#: The servers that were found to evict: each is warned of once in a process.
_EVICTING: Final[set[str]] = set()


async def warn_of_eviction(link: RedisLink, shown: str) -> None:
    """Say once that this Redis is set up to throw keys away: a queue is one, and so is everything that is held."""
    try:
        about = await link.call("INFO", "memory")
    except ConnectionLost:
        raise
    except OperationalError:  # not ours to ask
        return
    policy = next(
        (line[17:] for line in _text(about).splitlines() if line.startswith("maxmemory_policy:")), ""
    )
    if policy not in {"", "noeviction"} and shown not in _EVICTING:
        _EVICTING.add(shown)
        logger.warning(
            "%s: maxmemory-policy is %s: when memory is short, Redis may delete queues, running tasks' messages and"
            " results without a word; set it to noeviction",
            shown,
            policy,
        )


def _text(reply: Any) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def _target(config: BrokerConfig) -> Target:
    return parse_target(config.url, config.options, config.ssl, timeout=config.timeout, name=config.name)
