"""Channels that carry messages: publishing with confirms, deliveries, acks.

`TappedChannel` (tapped.py) does it with our own codec on the tapped socket, `PlainChannel` through
the driver alone, for the day a driver changes underneath (`broker_transport_options = {"codec": False}`).
Opening, declaring, consuming and closing are the driver's in both.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage
from pamqp import commands

from taskq.broker_adapters.amqp.codec import FRAME_MAX, write_properties
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink
from taskq.broker_adapters.amqp.tables import short_string
from taskq.broker_adapters.amqp.topology import Methods
from taskq.errors import BrokerFull, ConnectionLost, OperationalError, Refused, Unroutable
from taskq.wire.message import Message

Failures = dict[int, OperationalError | Refused]

#: Messages written before the socket is asked whether it takes more.
CHUNK = 500
#: Bytes of the message id that the driver adds.
_MESSAGE_ID = 33


class ChannelRefused(ConnectionLost):
    """The broker closed the channel over one of the messages on it: `reason` is its word, and this may be another one."""

    def __init__(self, link: AmqpLink, reason: aiormq.exceptions.ChannelClosed) -> None:
        super().__init__(
            f"{link.shown} did not confirm the message (it closed the channel: {reason})", maybe_accepted=True
        )
        self.reason = reason


class Deliver(Protocol):
    """Takes one delivery: the consumer's tag, the delivery's tag, the broker's flag, the message."""

    def __call__(self, queue_tag: str, tag: int, redelivered: bool, message: Message) -> None: ...  # noqa: FBT001 - the protocol's own flag


class DataChannel:
    """What both kinds share."""

    def __init__(
        self, link: AmqpLink, channel: aio_pika.abc.AbstractChannel, deliver: Deliver | None
    ) -> None:
        self.link = link
        self.tap = link.tap
        self.closed = False
        self.refusal: aiormq.exceptions.ChannelClosed | None = None  # why the broker closed it
        self.on_closed: list[Callable[[], None]] = []
        self.on_cancelled: list[Callable[[], None]] = []  # the broker ended a consumer
        self._channel = channel
        self._deliver = deliver
        self._raw: aiormq.abc.AbstractChannel

    async def start(self) -> None:
        """Attach to the opened channel."""
        self._raw = await self._channel.get_underlay_channel()
        self._channel.close_callbacks.add(self._on_close)
        self._raw.on_consumer_cancel_callbacks.add(self._on_cancel)
        self.tap.on_closed.append(self._lost)
        if self.tap.closed or self._channel.is_closed:
            self._lost()

    async def consume(self, queue: str, consumer_tag: str, prefetch: int, *, exclusive: bool = False) -> None:
        """Have a queue delivered, `prefetch` unsettled messages at a time (0: no bound).

        Raises:
            Refused: the broker never will.
            OperationalError: not now.
        """
        try:
            await self._raw.basic_qos(prefetch_count=min(prefetch, 65535), timeout=self.link.config.timeout)
            methods = Methods(self._raw, self.link.config.timeout)
            await methods.consume(queue, self._on_message, consumer_tag, exclusive=exclusive)
        except DRIVER_ERRORS as error:
            raise self.link.error(error) from error

    async def cancel(self, consumer_tag: str) -> None:
        """Have no more of a queue delivered."""
        try:
            await self._raw.basic_cancel(consumer_tag, timeout=self.link.config.timeout)
        except DRIVER_ERRORS as error:
            raise self.link.error(error) from error

    async def close(self) -> None:
        """Close the channel: the broker gives unsettled deliveries back to their queues."""
        if self._lost in self.tap.on_closed:
            self.tap.on_closed.remove(self._lost)
        try:
            async with asyncio.timeout(self.link.config.timeout):
                await self._channel.close()
        except DRIVER_ERRORS as error:
            raise self.link.error(error) from error

    def drop(self) -> None:
        """Give up the connection: the broker has answered nothing for too long, though it takes messages."""
        if not self.tap.blocked:
            self.tap.abort()

    def _on_close(self, _channel: Any, error: BaseException | None = None) -> None:
        if isinstance(error, aiormq.exceptions.ChannelClosed) and self.refusal is None:
            self.refusal = error
        self._lost()

    def _on_cancel(self, _frame: Any) -> None:
        # A consumed queue was deleted, or its node is gone: this channel will not do any more.
        for call in self.on_cancelled:
            call()

    def _lost(self) -> None:
        if not self.closed:
            self.closed = True
            for call in self.on_closed:
                call()

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        """The driver's callback for deliveries it was left with."""
        raise NotImplementedError

    def check(self, messages: Sequence[Message]) -> None:
        """Raises EncodeError: one of these cannot be written."""
        raise NotImplementedError

    async def send(self, messages: Sequence[Message], timeout: float) -> Failures:  # noqa: ASYNC109 - a bound on silence, not on the whole
        """Publish and wait for every confirm; index -> error of those not known to be safe.

        `timeout` is how many seconds the broker may confirm none of these. Where it confirms nothing at all, the
        connection is dropped, for another may do better.

        Raises:
            EncodeError: one of them cannot be written: nothing was sent.
        """
        raise NotImplementedError

    def ack(self, tag: int, *, multiple: bool) -> None:
        """Remove a delivery, or all up to it."""
        raise NotImplementedError

    def requeue(self, tag: int) -> None:
        """Give a delivery back to its queue."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Wait until the socket has taken what was acked."""
        raise NotImplementedError


def unroutable(link: AmqpLink, message: Message, reason: str) -> Unroutable:
    """The error for a message that came back."""
    return Unroutable(
        f"{link.shown} has no queue for exchange {message.exchange!r} and routing key {message.routing_key!r} "
        f"({reason}): declare the queue, or start a worker that does"
    )


def refused(link: AmqpLink) -> BrokerFull:
    """The error for a message the broker answered with basic.nack."""
    return BrokerFull(f"{link.shown} refused the message: its queue is full, or has lost its nodes")


def unconfirmed(link: AmqpLink) -> OperationalError:
    """The error for a message nothing was heard of."""
    if link.tap.blocked:
        return link.full(maybe_accepted=True)
    return OperationalError(
        f"{link.shown} did not confirm the message in time: it may have taken it all the same",
        maybe_accepted=True,
    )


# -- the data path through the driver alone ----------------------------------------------------------------------


class Properties(commands.Basic.Properties):
    """The driver's properties, written by our codec.

    pamqp narrows floats to 32 bits, and integers to letters that py-amqp before 5.4 reads as text.
    """

    def __init__(self, message: Message) -> None:
        super().__init__()
        self._source = message

    def marshal(self) -> bytes:
        return write_properties(self._source, FRAME_MAX, str(self.message_id or ""))


def message_of(delivered: DeliveredMessage, exchange: str, routing_key: str) -> Message:
    """Our message for one of the driver's."""
    properties = delivered.header.properties
    return Message(
        headers=dict(properties.headers or {}),
        body=delivered.body,
        content_type=properties.content_type or "",
        content_encoding=properties.content_encoding or "",
        correlation_id=properties.correlation_id or "",
        reply_to=properties.reply_to or "",
        priority=properties.priority or 0,
        delivery_mode=properties.delivery_mode or 2,
        exchange=exchange,
        routing_key=routing_key,
    )


class PlainChannel(DataChannel):
    """Everything by the driver."""

    def __init__(
        self, link: AmqpLink, channel: aio_pika.abc.AbstractChannel, deliver: Deliver | None
    ) -> None:
        super().__init__(link, channel, deliver)
        self._answers = 0  # confirms since the last chunk was written
        self._settled: list[
            tuple[int, bool | None]
        ] = []  # tag, and `multiple` of an ack or None for a requeue

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        method = delivered.delivery
        if self._deliver is not None and isinstance(method, commands.Basic.Deliver):
            message = message_of(delivered, method.exchange or "", method.routing_key or "")
            self._deliver(
                method.consumer_tag or "", method.delivery_tag or 0, bool(method.redelivered), message
            )

    def check(self, messages: Sequence[Message]) -> None:
        for message in messages:
            write_properties(message, FRAME_MAX - _MESSAGE_ID)
            short_string(message.exchange)
            short_string(message.routing_key)

    async def send(self, messages: Sequence[Message], timeout: float) -> Failures:  # noqa: ASYNC109 - see the base
        failures: Failures = {}
        self.check(messages)  # before the first is sent
        for start in range(0, len(messages), CHUNK):
            chunk = messages[start : start + CHUNK]
            self._answers = 0
            errors = await asyncio.gather(*(self._send_one(message, timeout) for message in chunk))
            failures |= {start + index: error for index, error in enumerate(errors) if error is not None}
        if self.refusal is not None:
            # The driver may go on writing to a channel that the server closes, which then closes the connection.
            reason = self.refusal
            lost = (index for index, error in failures.items() if isinstance(error, ConnectionLost))
            failures |= {index: ChannelRefused(self.link, reason) for index in lost}
        return failures

    async def _send_one(self, message: Message, timeout: float) -> OperationalError | Refused | None:  # noqa: ASYNC109 - see the base
        if self.closed:
            return ConnectionLost(f"the connection to {self.link.shown} broke")
        try:
            await self._raw.basic_publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                properties=Properties(message),
                mandatory=True,
                timeout=timeout,
            )
        except DRIVER_ERRORS as error:
            return self._error_of(message, error)
        except ValueError as error:  # of names that the server would take
            return Refused(f"the driver cannot publish to exchange {message.exchange!r}: {error}")
        self._answers += 1
        return None

    def _error_of(self, message: Message, error: Exception) -> OperationalError | Refused:
        if isinstance(error, aiormq.exceptions.ChannelClosed):
            self._on_close(self._channel, error)  # the driver may tell of it later
            return ChannelRefused(self.link, error)
        if isinstance(error, aiormq.exceptions.PublishError):
            return unroutable(self.link, message, str(error))
        if isinstance(error, aiormq.exceptions.DeliveryError):
            return refused(self.link)
        if isinstance(error, TimeoutError):
            if not self._answers:
                self.drop()
            return unconfirmed(self.link)
        return self.link.error(error, maybe_accepted=True)

    def ack(self, tag: int, *, multiple: bool) -> None:
        self._settled.append((tag, multiple))

    def requeue(self, tag: int) -> None:
        self._settled.append((tag, None))

    async def flush(self) -> None:
        settled, self._settled = self._settled, []
        try:
            for tag, multiple in settled:
                if multiple is None:
                    await self._raw.basic_nack(tag, requeue=True, wait=False)
                else:
                    await self._raw.basic_ack(tag, multiple=multiple, wait=False)
        except DRIVER_ERRORS as error:
            raise self.link.error(error) from error
