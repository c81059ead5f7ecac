"""Boxes on RabbitMQ: a queue each, read by an exclusive consumer. See `taskq.seams.broker.Boxes`.

Whoever holds a box has all its messages unsettled on a channel of its own. Closing that channel, or losing it, ends
the consumer and gives the messages back in one step of the queue: so a count that is taken while there is no consumer
is a count of all. A sealed box is a queue of the same name that has room for no message and refuses what comes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import aiormq

from taskq.broker_adapters.amqp.browse import CLASSIC
from taskq.broker_adapters.amqp.channel import DataChannel
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink
from taskq.broker_adapters.amqp.sender import AmqpSender, open_data_channel
from taskq.broker_adapters.amqp.topology import Methods, Topology
from taskq.errors import BrokerFull, ConnectionLost, OperationalError, Refused, Unroutable
from taskq.wire.message import Message

log = logging.getLogger("taskq.amqp")

#: Priorities of messages in a box are 0 up to this.
_MOST_URGENT: Final = 2
#: A box that refuses all, forgotten after five minutes.
_SEALED: Final = CLASSIC | {"x-max-length": 0, "x-overflow": "reject-publish", "x-expires": 300_000}
_CONSUMER: Final = "hold"
#: Seconds after which a box that gives nothing is asked whether it is sealed.
_SOON: Final = 0.05
#: How often others may make a box between its removal and its sealing.
_TRIES: Final = 10


class Held:
    """One box in our hands."""

    def __init__(self, box: str, link: AmqpLink) -> None:
        self._box = box
        self._link = link
        self._arrived: asyncio.Queue[Message | ConnectionLost | None] = asyncio.Queue()
        self._some = asyncio.Event()
        self._channel: DataChannel | None = None

    async def take(self, limit: int) -> bool:
        """Begin to read; False: somebody else does, or there is no such box."""
        channel = self._channel = await open_data_channel(self._link, confirms=False, deliver=self._deliver)
        channel.on_closed.append(self._lost)
        channel.on_cancelled.append(self._gone)
        try:
            await channel.consume(self._box, _CONSUMER, limit, exclusive=True)
        except (OperationalError, Refused) as error:
            await self.release()
            refusals = aiormq.exceptions.ChannelAccessRefused, aiormq.exceptions.ChannelNotFoundEntity
            if isinstance(error.__cause__, refusals):
                return False
            raise
        return True

    async def gives(self, within: float) -> bool:
        """Whether something comes within so many seconds."""
        try:
            async with asyncio.timeout(within):
                await self._some.wait()
        except TimeoutError:
            return False
        return True

    async def next(self) -> Message | None:
        try:
            async with asyncio.timeout(self._link.config.timeout):
                message = await self._arrived.get()
        except TimeoutError:
            raise OperationalError(f"{self._link.shown} delivers nothing of {self._box!r}") from None
        if isinstance(message, ConnectionLost):
            raise message
        return message

    async def stop(self) -> None:
        """Read no more, so that the end of the queue is no surprise; what was read stays ours."""
        if self._channel is not None and not self._channel.closed:
            await self._channel.cancel(_CONSUMER)

    async def release(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            await channel.close()
        except OperationalError as error:
            log.debug("the broker lets go of %s by itself: %s", self._box, error)

    def _deliver(self, queue_tag: str, tag: int, redelivered: bool, message: Message) -> None:  # noqa: ARG002, FBT001 - the protocol's signature
        self._add(message)

    def _gone(self) -> None:
        self._add(None)

    def _lost(self) -> None:
        broke = f"the connection to {self._link.shown} broke while {self._box!r} was read"
        self._add(ConnectionLost(broke))

    def _add(self, what: Message | ConnectionLost | None) -> None:
        self._arrived.put_nowait(what)
        self._some.set()


class AmqpBoxes:
    """The boxes of one broker."""

    def __init__(
        self, sender: AmqpSender, consuming: AmqpLink, connect: Callable[[], Awaitable[None]]
    ) -> None:
        self._sender = sender
        self._consuming = consuming
        self._connect = connect
        self._topology = Topology(sender.link)

    async def put(self, box: str, messages: Sequence[Message], *, make: bool = False) -> bool:
        copies = [replace(message, exchange="", routing_key=box) for message in messages]
        if make:
            await self._make(box)
        error = await self._send(copies)
        if isinstance(error, Unroutable):
            await self._make(box)
            error = await self._send(copies)
        if error is None:
            return True
        if isinstance(error, BrokerFull) and not error.maybe_accepted and await self._is_sealed(box):
            return False
        raise error

    async def look(self, box: str) -> tuple[int, bool] | None:
        with self._errors():
            try:
                declared = await self._topology.do(lambda methods: methods.queue_declare(box, passive=True))
            except aiormq.exceptions.ChannelNotFoundEntity:
                return None
        return declared.message_count or 0, bool(declared.consumer_count)

    async def hold(self, box: str, limit: int) -> Held | None:
        await self._connect()
        held = Held(box, self._consuming)
        if not await held.take(limit):
            return None
        # A box that was sealed between a look and this gives nothing, and may be read all the same.
        if not await held.gives(_SOON) and await self._is_sealed(box):
            await held.release()
            return None
        return held

    async def seal(self, box: str, hold: Held | None = None) -> None:
        if hold is None:
            await self._seal(box)
            return
        try:
            await hold.stop()
            await self._seal(box)
        finally:
            await hold.release()

    async def _seal(self, box: str) -> None:
        for _ in range(_TRIES):
            with self._errors():
                await self._topology.do(lambda methods: methods.queue_delete(box))
            if await self._is_sealed(box):
                return
        raise OperationalError(f"the queue {box!r} on {self._sender.link.shown} is made again and again")

    async def _send(self, messages: Sequence[Message]) -> OperationalError | Refused | None:
        failures = await self._sender.send(messages)
        return next(iter(failures.values()), None)

    async def _make(self, box: str) -> None:
        """Declare it; one that is there stays as it is, sealed or with the lifetime of another app."""
        arguments = {
            **self._sender.link.config.queue(box).arguments,
            **CLASSIC,
            "x-max-priority": _MOST_URGENT,
        }
        await self._declared(box, arguments)

    async def _is_sealed(self, box: str) -> bool:
        """Whether the box is sealed; seals it if there is none."""
        return await self._declared(box, _SEALED)

    async def _declared(self, box: str, arguments: dict[str, Any]) -> bool:
        """Declare the queue; False: it is there with other arguments."""

        def declare(methods: Methods) -> Awaitable[Any]:
            return methods.queue_declare(box, durable=True, arguments=arguments)

        with self._errors():
            try:
                await self._topology.do(declare)
            except aiormq.exceptions.ChannelPreconditionFailed:
                return False
        return True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            raise self._sender.link.error(error) from error
