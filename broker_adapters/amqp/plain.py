"""The data path through the driver alone."""

import asyncio
from collections.abc import Sequence

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage
from pamqp import commands

from taskq.broker_adapters.amqp.channel import (
    CHUNK,
    ChannelRefused,
    DataChannel,
    Deliver,
    Failures,
    refused,
    unconfirmed,
    unroutable,
)
from taskq.broker_adapters.amqp.codec import FRAME_MAX, write_properties
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink
from taskq.broker_adapters.amqp.tables import short_string
from taskq.errors import ConnectionLost, OperationalError, Refused
from taskq.wire.message import Message

#: Bytes of the message id that the driver adds.
_MESSAGE_ID = 33


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
