"""The bus over RabbitMQ: exchanges and queues exactly as Celery's (wire-format.md 7.3, 8.1).

Without confirms: who announces does not learn whether anyone listens.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import uuid4

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage

from taskq.broker_adapters.amqp.browse import CLASSIC
from taskq.broker_adapters.amqp.channel import Properties, message_of
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink, ended
from taskq.broker_adapters.amqp.topology import Methods, Raw
from taskq.errors import OperationalError
from taskq.seams.bus import Arrivals, Exchange, Inbox
from taskq.wire.message import Message

log = logging.getLogger("taskq.amqp")

#: Seconds between tries to listen again, the first and the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class AmqpListener(Arrivals):
    """See `taskq.seams.bus.Listener`."""

    def __init__(self, link: AmqpLink, inbox: Inbox) -> None:
        super().__init__()
        self._link = link
        self._inbox = inbox
        self._lost = asyncio.Event()
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._tap = link.tap
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises OperationalError."""
        await self._attach()
        self._keeper = asyncio.create_task(self._keep(), name="taskq-amqp-bus")

    async def close(self) -> None:
        if self._keeper is not None:
            await ended(self._keeper)
        await self._detach()
        self.end()

    async def _attach(self) -> None:
        self._channel = channel = await self._link.channel()
        self._tap, self._lost = self._link.tap, asyncio.Event()
        self._tap.on_closed.append(self._lost.set)
        channel.close_callbacks.add(self._on_closed)
        try:
            async with asyncio.timeout(self._link.config.timeout):
                raw = await channel.get_underlay_channel()
                raw.on_consumer_cancel_callbacks.add(self._on_closed)
                methods = Methods(raw)
                await self._declare(methods)
                await methods.consume(self._inbox.name, self._on_message, uuid4().hex, no_ack=True)
        except aiormq.exceptions.ChannelLockedResource as error:
            await self._detach()
            raise OperationalError(
                f"{self._link.shown}: another process has the queue {self._inbox.name}"
            ) from error
        except DRIVER_ERRORS as error:
            await self._detach()
            raise self._link.not_now(error) from error

    async def _declare(self, methods: Methods) -> None:
        inbox, exchange = self._inbox, self._inbox.exchange
        limits = {"x-message-ttl": int(inbox.ttl * 1000), "x-expires": int(inbox.expires * 1000)}
        await declare(methods, exchange)
        await methods.queue_declare(inbox.name, exclusive=True, auto_delete=True, arguments=CLASSIC | limits)
        await methods.queue_bind(inbox.name, exchange.name, inbox.key)

    async def _detach(self) -> None:
        with suppress(ValueError):
            self._tap.on_closed.remove(self._lost.set)
        if self._channel is not None:
            try:
                async with asyncio.timeout(self._link.config.timeout):
                    await self._channel.close()
            except DRIVER_ERRORS as error:
                log.debug("closing: %r", error)

    async def _keep(self) -> None:
        wait = _FIRST_WAIT
        while True:
            await self._lost.wait()
            try:
                await self._detach()
                await self._attach()
                wait = _FIRST_WAIT
            except OperationalError as error:
                log.info("cannot listen yet: %s", error)
                self._lost.set()
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)

    def _on_closed(self, *_: object) -> None:
        self._lost.set()

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        self.add(message_of(delivered, self._inbox.exchange.name, delivered.routing_key or ""))


async def declare(methods: Methods, exchange: Exchange) -> None:
    await methods.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=exchange.durable)


class AmqpBus:
    """See `taskq.seams.bus.Bus`: announces over one link, listens over the other once `connect` has opened it."""

    def __init__(
        self, sending: AmqpLink, receiving: AmqpLink, connect: Callable[[], Awaitable[None]]
    ) -> None:
        self._sending = sending
        self._receiving = receiving
        self._connect = connect
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._declared: set[Exchange] = set()
        self._lock = asyncio.Lock()
        self._listeners: list[AmqpListener] = []

    async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        if self._sending.tap.blocked:
            raise self._sending.full(maybe_accepted=False)
        try:
            async with self._lock, asyncio.timeout(self._sending.config.timeout):
                raw = await self._raw(exchange)
                for message in messages:
                    await raw.basic_publish(
                        message.body,
                        exchange=exchange.name,
                        routing_key=message.routing_key,
                        properties=Properties(message),
                    )
        except DRIVER_ERRORS as error:
            self._channel = None
            raise self._sending.not_now(error) from error

    async def _raw(self, exchange: Exchange) -> Raw:
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._sending.channel()
            self._declared.clear()
        raw = await self._channel.get_underlay_channel()
        if exchange not in self._declared:
            await declare(Methods(raw), exchange)
            self._declared.add(exchange)
        return raw

    async def listen(self, inbox: Inbox) -> AmqpListener:
        await self._connect()
        listener = AmqpListener(self._receiving, inbox)
        await listener.open()
        self._listeners = [known for known in self._listeners if not known.ended]
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()
        self._channel = None
