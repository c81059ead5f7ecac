"""Exchanges, queues and bindings, declared before their first use and exactly as Celery declares them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aio_pika
import aiormq

from taskq.broker_adapters.amqp.delay import DELIVERY, arrival_key, celery_arrival_key, levels
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink
from taskq.errors import Unroutable
from taskq.seams.broker import Queue

log = logging.getLogger("taskq.amqp")

T = TypeVar("T")
Raw = aiormq.abc.AbstractChannel


class Topology:
    """What was declared over one link; forgotten when the connection changes."""

    def __init__(self, link: AmqpLink) -> None:
        self._link = link
        self._config = link.config
        self._tap = link.tap
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._lock = asyncio.Lock()
        self._known: set[str] = set()  # queues
        self._targets: set[tuple[str, str]] = set()  # exchange, routing key
        self._delayed: set[str] = set()  # queues reached through the delays; "" once the levels are there

    def knows(self, exchange: str, routing_key: str) -> bool:
        """Whether what takes such a message was declared on this connection."""
        return self._tap is self._link.tap and (exchange, routing_key) in self._targets

    def adopt(self, queue: str) -> None:
        """Take a queue as declared: its owner has done it."""
        self._refresh()
        self._known.add(queue)
        self._targets.add(("", queue))

    def forget(self, queue: str) -> None:
        """Declare this queue again before its next use: it was deleted by somebody."""
        self._known.discard(queue)
        self._targets.discard(("", queue))
        self._delayed.discard(queue)

    def forget_all(self) -> None:
        """Declare everything again before its next use: something of it was deleted, and who knows what went with it."""
        self._known.clear()
        self._targets.clear()
        self._delayed.clear()

    async def target(self, exchange: str, routing_key: str) -> None:
        """Declare what takes messages of this exchange and key.

        Raises:
            Unroutable: nobody knows the exchange.
            OperationalError: the broker cannot be asked.
        """
        self._refresh()
        if not exchange:
            if not self._config.queue(routing_key).auto_delete:
                await self.queue(routing_key)
        elif not await self._declare_behind(exchange):
            await self._exists(exchange)
        self._targets.add((exchange, routing_key))

    async def queue(self, name: str) -> None:
        """Declare a queue with its exchange and binding; a queue that is there with other arguments is used as it is."""
        self._refresh()
        if name in self._known:
            return
        queue = self._config.queue(name)
        try:
            await self.do(lambda raw: _declare(raw, queue))
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            log.warning(
                "queue %r is used as it is: it, or its exchange, was declared with other settings (%s)",
                name,
                error,
            )
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error
        self._known.add(name)

    async def delays(self, queue: str) -> None:
        """Declare the delayed delivery, and that its messages for this queue reach it."""
        self._refresh()
        if queue in self._delayed:
            return
        await self.queue(queue)
        kind = str(self._config.options.get("native_delayed_delivery_queue_type", "quorum"))
        try:
            if "" not in self._delayed:
                await self.do(lambda raw: _declare_delays(raw, kind))
                self._delayed.add("")
            await self.do(lambda raw: _bind_delays(raw, self._config.queue(queue)))
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error
        self._delayed.add(queue)

    def behind(self, exchange: str, routing_key: str) -> Queue | None:
        """The known queue of an exchange and key."""
        known = (queue for queue in self._config.queues() if (queue.exchange or queue.name) == exchange)
        return next((queue for queue in known if (queue.routing_key or queue.name) == routing_key), None)

    async def do(self, step: Callable[[Raw], Awaitable[T]]) -> T:
        """Run some declarations on a channel of their own: the broker closes it when it refuses one.

        Raises:
            AMQPError, OSError...: the driver's errors (DRIVER_ERRORS), for the caller to tell apart.
        """
        async with self._lock:
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = self._channel = await self._link.channel()
            try:
                async with asyncio.timeout(max(10.0, self._config.timeout)):  # 28 quorum queues take seconds
                    return await step(await channel.get_underlay_channel())
            except BaseException:
                self._channel = None
                raise

    async def _declare_behind(self, exchange: str) -> bool:
        known = [queue for queue in self._config.queues() if (queue.exchange or queue.name) == exchange]
        for queue in known:
            await self.queue(queue.name)
        return bool(known)

    async def _exists(self, exchange: str) -> None:
        try:
            await self.do(lambda raw: raw.exchange_declare(exchange, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            raise Unroutable(
                f"{self._link.shown} has no exchange {exchange!r}: name it in task_queues, so that it is declared"
            ) from None
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error

    def _refresh(self) -> None:
        if self._tap is not self._link.tap:
            self._tap, self._channel = self._link.tap, None
            self.forget_all()


async def _declare(raw: Raw, queue: Queue) -> None:
    exchange = queue.exchange or ("" if queue.auto_delete else queue.name)
    if exchange:
        await raw.exchange_declare(exchange, exchange_type=queue.exchange_type, durable=queue.durable)
    await raw.queue_declare(
        queue.name, durable=queue.durable, auto_delete=queue.auto_delete, arguments=dict(queue.arguments)
    )
    if exchange:
        await raw.queue_bind(queue.name, exchange, queue.routing_key or queue.name)


async def _declare_delays(raw: Raw, queue_type: str) -> None:
    await raw.exchange_declare(DELIVERY, exchange_type="topic", durable=True)
    for level in levels(queue_type):
        await raw.exchange_declare(level.name, exchange_type="topic", durable=True)
        await raw.queue_declare(level.name, durable=True, arguments=level.arguments)
        await raw.queue_bind(level.name, level.name, level.waits)
        await raw.exchange_bind(level.passes_to, level.name, level.skips)


async def _bind_delays(raw: Raw, queue: Queue) -> None:
    await raw.queue_bind(queue.name, DELIVERY, arrival_key(queue.name))
    if queue.exchange_type != "direct":
        key = celery_arrival_key(queue.routing_key or queue.name)
        await raw.exchange_bind(queue.exchange or queue.name, DELIVERY, key)
        await raw.queue_bind(queue.name, queue.exchange or queue.name, key)
