"""Declarations and consumers on one channel, with every name and argument that RabbitMQ takes.

The driver's own methods take names of up to 127 of the characters `a-zA-Z0-9-_.:@#,/+` and blank alone; RabbitMQ takes
255 bytes of any UTF-8. Here the server is asked; what cannot be written at all raises EncodeError before.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp import commands

from taskq.broker_adapters.amqp.tables import short_string, write_table

Raw = aiormq.abc.AbstractChannel
OnMessage = Callable[[DeliveredMessage], Coroutine[Any, Any, Any]]


class _Unchecked:
    """First of the bases of a frame: the server judges names, not the driver."""

    def validate(self) -> None:
        """Nothing."""


class _ExchangeDeclare(_Unchecked, commands.Exchange.Declare):
    pass


class _ExchangeBind(_Unchecked, commands.Exchange.Bind):
    pass


class _QueueDeclare(_Unchecked, commands.Queue.Declare):
    pass


class _QueueBind(_Unchecked, commands.Queue.Bind):
    pass


class _QueueDelete(_Unchecked, commands.Queue.Delete):
    pass


class _QueuePurge(_Unchecked, commands.Queue.Purge):
    pass


class _Consume(_Unchecked, commands.Basic.Consume):
    pass


class Methods:
    """What can be asked for on a channel. Each raises the driver's errors, and waits for the server's answer.

    `timeout` is how many seconds one answer may take; None: as long as it takes.
    """

    def __init__(self, raw: Raw, timeout: float | None = None) -> None:
        self._channel = cast("aiormq.Channel", raw)
        self._timeout = timeout

    async def exchange_declare(
        self, exchange: str, *, exchange_type: str = "direct", passive: bool = False, durable: bool = False
    ) -> None:
        _check(exchange)
        frame = _ExchangeDeclare(
            exchange=exchange, exchange_type=exchange_type, passive=passive, durable=durable
        )
        await self._channel.rpc(frame, timeout=self._timeout)

    async def exchange_bind(self, destination: str, source: str, routing_key: str) -> None:
        _check(destination, source, routing_key)
        frame = _ExchangeBind(destination=destination, source=source, routing_key=routing_key)
        await self._channel.rpc(frame, timeout=self._timeout)

    async def queue_declare(
        self,
        queue: str,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> commands.Queue.DeclareOk:
        _check(queue)
        write_table(arguments or {})
        frame = _QueueDeclare(
            queue=queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
        )
        return await self._channel.rpc(frame, timeout=self._timeout)

    async def queue_bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        _check(queue, exchange, routing_key)
        frame = _QueueBind(queue=queue, exchange=exchange, routing_key=routing_key)
        await self._channel.rpc(frame, timeout=self._timeout)

    async def queue_delete(self, queue: str) -> None:
        _check(queue)
        await self._channel.rpc(_QueueDelete(queue=queue), timeout=self._timeout)

    async def queue_purge(self, queue: str) -> int:
        """Returns how many messages there were."""
        _check(queue)
        purged = await self._channel.rpc(_QueuePurge(queue=queue), timeout=self._timeout)
        return purged.message_count or 0

    async def consume(
        self,
        queue: str,
        on_message: OnMessage,
        tag: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
    ) -> None:
        _check(queue, tag)
        self._channel.consumers[tag] = on_message
        frame = _Consume(queue=queue, consumer_tag=tag, no_ack=no_ack, exclusive=exclusive)
        await self._channel.rpc(frame, timeout=self._timeout)


def _check(*names: str) -> None:
    for name in names:
        short_string(name)
