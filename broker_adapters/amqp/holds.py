"""Custody beyond `consumer_timeout`: RabbitMQ closes the channel of who holds a delivery for 30 minutes.

A delivery held for long is moved into a queue of its own, whose messages return to where they came from when
they are not replaced in time: a lease, made of a copy that is confirmed before the original is acked. The copy
is replaced as long as its holder lives, also through a lost connection, and dropped when the delivery is settled.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any
from uuid import uuid4

import aiormq

from taskq.broker_adapters.amqp.delay import PREFIX, returning
from taskq.broker_adapters.amqp.held import HeldSession
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS
from taskq.broker_adapters.amqp.sender import AmqpSender
from taskq.errors import EncodeError, OperationalError, Refused
from taskq.wire.message import Delivery

log = logging.getLogger("taskq.amqp")

#: Seconds a delivery is held on its channel, half of RabbitMQ's default `consumer_timeout`; after that, seconds
#: until an abandoned copy returns, and between two replacements.
LONG, RETURNS, REPLACED = 900.0, 300.0, 100.0
#: Seconds after which an abandoned, emptied queue is deleted.
_LEFT = 3600.0


#: A copy is as safe as the queue it is for, also on its way back.
_REPLICATED = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",
    "x-dead-letter-strategy": "at-least-once",
}
_TIMED_OUT = re.compile(r"timed out.*Timeout value used: (\d+) ms")


class Holds:
    """The deliveries of one consumer that are held by copies: delivery -> the queue of its copy."""

    def __init__(self, sender: AmqpSender) -> None:
        self._sender = sender
        self._queues: dict[Delivery, str] = {}
        self._stopping = False
        self._wake = asyncio.Event()
        self._long = LONG
        if (timeout := sender.link.config.options.get("consumer_timeout")) is not None:
            self._long = min(LONG, float(timeout) / 2)

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
                while marks and marks[0][0] <= now - self._long:
                    _, then, last = marks.popleft()
                    if then is present:
                        await self._take_until(present, last)
            except OperationalError as error:
                log.warning("deliveries held for long may return while they run: %s", error)

    def learn(self, reason: str) -> None:
        """The server has closed our channel for this reason: perhaps it gives us less time than we thought."""
        found = _TIMED_OUT.search(reason)
        if found is None or (long := int(found[1]) / 2000) >= self._long:
            return
        self._long = long
        self._wake.set()
        log.warning(
            "RabbitMQ took deliveries back: its consumer_timeout is %g s. Tasks that take longer than %g s are "
            'from now on held by copies; say so at once with broker_transport_options = {"consumer_timeout": %g}',
            2 * long,
            long,
            2 * long,
        )

    def stop(self) -> None:
        """Have `watch` end after its present step: a copy that nobody knows of would run a second time."""
        self._stopping = True
        self._wake.set()

    async def _stopped(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(REPLACED, self._long / 4)):
                await self._wake.wait()
        self._wake.clear()
        return self._stopping

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
            await self._sender.publish([returning(delivery, self._queues[delivery]) for delivery in held])
            await self.drop(held)

    async def _copy(self, delivery: Delivery) -> str:
        name = f"{PREFIX}{uuid4().hex}"
        arguments: dict[str, Any] = {
            "x-message-ttl": int(RETURNS * 1000),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": delivery.queue,
            "x-expires": int(_LEFT * 1000),
        }
        if self._sender.link.config.queue(delivery.queue).arguments.get("x-queue-type") == "quorum":
            arguments |= _REPLICATED
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
