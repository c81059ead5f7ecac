"""Exchanges, queues and bindings, declared exactly as Celery declares them, with every name that RabbitMQ takes.

The driver's own methods take names of up to 127 of the characters `a-zA-Z0-9-_.:@#,/+` and blank alone; RabbitMQ takes
255 bytes of any UTF-8. Here the server is asked; what cannot be written at all raises EncodeError before.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar, cast

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage
from pamqp import commands

from taskq.broker_adapters.amqp.delay import DELIVERY, arrival_key, celery_arrival_key, levels
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink, OneAttempt
from taskq.broker_adapters.amqp.tables import short_string, write_table
from taskq.errors import Refused, Unroutable
from taskq.seams.broker import Queue

log = logging.getLogger("taskq.amqp")

T = TypeVar("T")
Raw = aiormq.abc.AbstractChannel
Step = Callable[["Methods"], Awaitable[T]]
OnMessage = Callable[[DeliveredMessage], Coroutine[Any, Any, Any]]

#: Seconds that the delays may take: 28 quorum queues are slow to make.
_DELAYS_WITHIN: Final = 10.0
#: A name that is reserved, not ours to declare, there with other settings, or refers to what is not there.
_DECLARED_OTHERWISE: Final = (
    aiormq.exceptions.ChannelAccessRefused,
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ChannelNotFoundEntity,
)
_IS_STREAM: Final = re.compile(r"'x-queue-type'.*current is the value 'stream'")


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


class OwnQueue(Queue):
    """A queue of one connection: no other may use it but to send there, and it goes with the connection."""


class Topology:
    """What was declared over one link.

    `lasting`: what was declared once is taken to be there on later connections, too. Who publishes learns soon enough
    when it is not: a message that nothing takes comes back.
    """

    def __init__(self, link: AmqpLink, *, lasting: bool = False) -> None:
        self._link = link
        self._config = link.config
        self._tap = link.tap
        self._lasting = lasting
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._lock = asyncio.Lock()
        self._declare = OneAttempt(self._declare_named)
        self._known: dict[str, float] = {}  # queues, with the time of their declaration (by the loop's clock)
        self._delayed: set[str] = set()  # queues reached through the delays; "" once the levels are there

    def forget(self, queue: str) -> None:
        """Declare this queue again before its next use: it was deleted by somebody."""
        self._known.pop(queue, None)
        self._delayed.discard(queue)

    def forget_all(self) -> None:
        """Declare everything again before its next use: something was deleted, and who knows what went with it."""
        self._known.clear()
        self._delayed.clear()

    async def target(self, exchange: str, routing_key: str, since: float) -> None:
        """Declare what is to take a message that nothing took, sent at `since` (by the loop's clock).

        Raises:
            Unroutable: nobody knows the exchange, or the queue is its owner's to declare.
            Refused: the broker never will.
            OperationalError: the broker cannot be asked.
        """
        if exchange:
            known = [queue for queue in self._config.queues() if (queue.exchange or queue.name) == exchange]
            for queue in known:
                await self._again(queue.name, since)
            if not known:
                await self._exists(exchange)
        elif not routing_key or self._config.queue(routing_key).auto_delete:
            raise Unroutable(f"{self._link.shown} has no queue {routing_key!r}: whoever reads it declares it")
        else:
            await self._again(routing_key, since)

    async def _again(self, queue: str, since: float) -> None:
        if self._known.get(queue, since) <= since:
            self.forget(queue)
        await self.queue(queue)

    async def queue(self, name: str, *, to_consume: bool = False) -> None:
        """Declare a queue with its exchange and binding; a queue that is there with other settings is used as it is.

        Raises:
            Refused: there is no such queue, and the broker lets us make none; or it is a stream, and `to_consume`.
            OperationalError: the broker cannot be asked.
        """
        self._refresh()
        if name not in self._known:
            await self._declare(name, to_consume)

    async def _declare_named(self, name: str, to_consume: bool) -> None:  # noqa: FBT001 - as `queue`, which asks for it
        if not name:
            raise Refused("a queue needs a name")
        queue = self._config.queue(name)
        if to_consume and queue.arguments.get("x-queue-type") == "stream":
            raise self._stream(name)
        try:
            await self.do(lambda methods: _declare(methods, queue))
        except _DECLARED_OTHERWISE as error:
            if to_consume and _IS_STREAM.search(str(error)):
                raise self._stream(name) from error
            await self._use_as_it_is(queue)
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error
        self._known[name] = asyncio.get_running_loop().time()

    async def delays(self, queue: str) -> None:
        """Declare the delayed delivery, and that its messages for this queue reach it. Raises as `queue`."""
        self._refresh()
        if queue in self._delayed:
            return
        await self.queue(queue)
        kind = str(self._config.options.get("native_delayed_delivery_queue_type", "quorum"))
        within = max(_DELAYS_WITHIN, self._config.timeout)
        try:
            if "" not in self._delayed:
                await self.do(lambda methods: _declare_delays(methods, kind), within)
                self._delayed.add("")
            await self.do(lambda methods: _bind_delays(methods, self._config.queue(queue)), within)
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error
        self._delayed.add(queue)

    def behind(self, exchange: str, routing_key: str) -> Queue | None:
        """The known queue of an exchange and key."""
        known = (queue for queue in self._config.queues() if (queue.exchange or queue.name) == exchange)
        return next((queue for queue in known if (queue.routing_key or queue.name) == routing_key), None)

    async def do(self, step: Step[T], within: float | None = None) -> T:
        """Run some declarations on a channel of their own: the broker closes it when it refuses one.

        Raises:
            AMQPError, OSError...: the driver's errors (DRIVER_ERRORS), for the caller to tell apart.
        """
        async with asyncio.timeout(within or self._config.timeout), self._lock:
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = self._channel = await self._link.channel()
            try:
                return await step(Methods(await channel.get_underlay_channel()))
            except BaseException:
                self._channel = None
                raise

    async def exists(self, queue: str) -> bool:
        """Whether there is a queue of this name. Raises OperationalError."""
        try:
            await self.do(lambda methods: methods.queue_declare(queue, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        except aiormq.exceptions.ChannelLockedResource:
            return True
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error
        return True

    async def _use_as_it_is(self, queue: Queue) -> None:
        """Step by step, for one that is refused may be there all the same."""
        problem: Exception | None = None
        for step in (_declare_exchange, _declare_queue, _bind):
            try:
                await self.do(lambda methods, step=step: step(methods, queue))  # type: ignore[misc]  # a default argument binds it now
            except _DECLARED_OTHERWISE as error:
                problem = problem or error
            except DRIVER_ERRORS as error:
                raise self._link.error(error) from error
        if problem is None:
            return
        if not await self.exists(queue.name):
            raise self._link.error(problem) from problem
        log.warning(
            "queue %r is used as it is: it, or its exchange, was declared with other settings (%s)",
            queue.name,
            problem,
        )

    def _stream(self, name: str) -> Refused:
        return Refused(
            f"{name!r} on {self._link.shown} is a stream, and tasks are taken from queues alone: "
            "use a queue of the type classic or quorum"
        )

    async def _exists(self, exchange: str) -> None:
        try:
            await self.do(lambda methods: methods.exchange_declare(exchange, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            raise Unroutable(
                f"{self._link.shown} has no exchange {exchange!r}: name it in task_queues, so that it is declared"
            ) from None
        except DRIVER_ERRORS as error:
            raise self._link.error(error) from error

    def _refresh(self) -> None:
        if self._tap is not self._link.tap:
            self._tap, self._channel = self._link.tap, None
            if not self._lasting:
                self.forget_all()


def _exchange_of(queue: Queue) -> str:
    return queue.exchange or ("" if queue.auto_delete else queue.name)


async def _declare(methods: Methods, queue: Queue) -> None:
    for step in (_declare_exchange, _declare_queue, _bind):
        await step(methods, queue)


async def _declare_exchange(methods: Methods, queue: Queue) -> None:
    if exchange := _exchange_of(queue):
        await methods.exchange_declare(exchange, exchange_type=queue.exchange_type, durable=queue.durable)


async def _declare_queue(methods: Methods, queue: Queue) -> None:
    await methods.queue_declare(
        queue.name,
        durable=queue.durable,
        exclusive=isinstance(queue, OwnQueue),
        auto_delete=queue.auto_delete,
        arguments=queue.arguments,
    )


async def _bind(methods: Methods, queue: Queue) -> None:
    if exchange := _exchange_of(queue):
        await methods.queue_bind(queue.name, exchange, queue.routing_key or queue.name)


async def _declare_delays(methods: Methods, queue_type: str) -> None:
    await methods.exchange_declare(DELIVERY, exchange_type="topic", durable=True)
    for level in levels(queue_type):
        await methods.exchange_declare(level.name, exchange_type="topic", durable=True)
        await methods.queue_declare(level.name, durable=True, arguments=level.arguments)
        await methods.queue_bind(level.name, level.name, level.waits)
        await methods.exchange_bind(level.passes_to, level.name, level.skips)


async def _bind_delays(methods: Methods, queue: Queue) -> None:
    await methods.queue_bind(queue.name, DELIVERY, arrival_key(queue.name))
    if queue.exchange_type != "direct":
        key = celery_arrival_key(queue.routing_key or queue.name)
        await methods.exchange_bind(queue.exchange or queue.name, DELIVERY, key)
        await methods.queue_bind(queue.name, queue.exchange or queue.name, key)
