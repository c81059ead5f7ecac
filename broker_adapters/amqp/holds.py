"""Custody beyond `consumer_timeout`: RabbitMQ closes the channel of who holds a delivery for 30 minutes.

A delivery held for long is moved into a queue of its own, whose messages return to where they came from when
they are not replaced in time: a lease, made of a copy that is confirmed before the original is acked. The copy
is replaced as long as its holder lives, also through a lost connection, and dropped when the delivery is settled.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any
from uuid import uuid4

import aiormq

from taskq.broker_adapters.amqp.delay import HOLD_HEADER, PREFIX
from taskq.broker_adapters.amqp.held import HeldSession
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS
from taskq.broker_adapters.amqp.sender import AmqpSender
from taskq.errors import EncodeError, OperationalError, Refused
from taskq.wire.message import Delivery, Message

log = logging.getLogger("taskq.amqp")

#: Seconds a delivery is held on its channel, half of RabbitMQ's default `consumer_timeout`; after that, seconds
#: until an abandoned copy returns, and between two replacements.
LONG, RETURNS, REPLACED = 900.0, 300.0, 100.0
#: Seconds after which an abandoned, emptied queue is deleted.
_LEFT = 3600.0


class Holds:
    """The deliveries of one consumer that are held by copies: delivery -> the queue of its copy."""

    def __init__(self, sender: AmqpSender) -> None:
        self._sender = sender
        self._queues: dict[Delivery, str] = {}
        self._stopping = asyncio.Event()

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery in self._queues

    def __bool__(self) -> bool:
        return bool(self._queues)

    async def watch(self, session: Callable[[], HeldSession]) -> None:
        """Move what is held for long, and keep what was moved; until `stop`."""
        marks: deque[tuple[float, HeldSession, int]] = deque()
        while not await self._stopped():
            now, present = monotonic(), session()
            marks.append((now, present, next(reversed(present.held), 0)))
            try:
                await self._renew()
                while marks and marks[0][0] <= now - LONG:
                    _, then, last = marks.popleft()
                    if then is present:
                        await self._take_until(present, last)
            except OperationalError as error:
                log.warning("deliveries held for long may return while they run: %s", error)

    def stop(self) -> None:
        """Have `watch` end after its present step: a copy that nobody knows of would run a second time."""
        self._stopping.set()

    async def _stopped(self) -> bool:
        try:
            async with asyncio.timeout(REPLACED):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _take_until(self, session: HeldSession, last: int) -> None:
        for delivery in [delivery for tag, delivery in session.held.items() if tag <= last]:
            try:
                queue = await self._copy(delivery)
            except (EncodeError, Refused) as error:
                log.warning("a delivery held for long cannot be kept beyond consumer_timeout: %s", error)
                continue
            if not session.has(delivery):  # settled meanwhile
                await self._delete(queue)
                continue
            self._queues[delivery] = queue
            session.ack([delivery])
        if session.channel is not None and not session.channel.closed:
            await session.channel.flush()

    async def _renew(self) -> None:
        for delivery in list(self._queues):
            queue = await self._copy(delivery)
            old = self._queues.get(delivery)
            if old is None:  # settled meanwhile
                await self._delete(queue)
            else:
                self._queues[delivery] = queue
                await self._delete(old)

    async def drop(self, deliveries: Sequence[Delivery]) -> None:
        """These are settled: their copies go."""
        for delivery in deliveries:
            queue = self._queues.pop(delivery, None)
            if queue is not None:
                await self._delete(queue)

    @property
    def deliveries(self) -> list[Delivery]:
        """All that is held."""
        return list(self._queues)

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """These return to their queues."""
        held = [delivery for delivery in deliveries if delivery in self._queues]
        if held:
            await self._sender.publish([self._returning(delivery) for delivery in held])
            await self.drop(held)

    def _returning(self, delivery: Delivery) -> Message:
        """A copy for its queue, with the mark that RabbitMQ leaves on one: it was delivered before."""
        headers = {**delivery.message.headers, HOLD_HEADER: self._queues[delivery]}
        return replace(delivery.message, headers=headers, exchange="", routing_key=delivery.queue, due=None)

    async def _copy(self, delivery: Delivery) -> str:
        name = f"{PREFIX}{uuid4().hex}"
        arguments: dict[str, Any] = {
            "x-message-ttl": int(RETURNS * 1000),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": delivery.queue,
            "x-expires": int(_LEFT * 1000),
        }
        try:
            await self._sender.topology.do(
                lambda methods: methods.queue_declare(name, durable=True, arguments=arguments)
            )
        except DRIVER_ERRORS as error:
            raise self._sender.link.error(error) from error
        await self._sender.publish([replace(delivery.message, exchange="", routing_key=name, due=None)])
        return name

    async def _delete(self, queue: str) -> None:
        try:
            await self._sender.topology.do(lambda methods: methods.queue_delete(queue))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return
        except DRIVER_ERRORS as error:
            raise self._sender.link.error(error) from error
