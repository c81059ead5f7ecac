"""Reading a queue without emptying it, and the log that all processes of one vhost share."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage

from taskq.broker_adapters.amqp.channel import message_of
from taskq.broker_adapters.amqp.held import is_worn
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink
from taskq.broker_adapters.amqp.sender import AmqpSender
from taskq.broker_adapters.amqp.topology import Methods, Topology
from taskq.errors import DecodeError, OperationalError, Refused
from taskq.wire.message import Message
from taskq.wire.serializers import json_dumps, json_loads

log = logging.getLogger("taskq.amqp")

#: Seconds without a message after which a queue is taken to be read: some of it expired meanwhile.
_QUIET = 1.0
#: Our exclusive queues are classic whatever the vhost's default is: others cannot be exclusive.
CLASSIC: dict[str, Any] = {"x-queue-type": "classic"}

Record = dict[str, Any]


class Browser:
    """Reads whole queues. While one process reads, the others wait: what it has before it they could not see."""

    def __init__(self, link: AmqpLink, topology: Topology, sender: AmqpSender) -> None:
        self.topology = topology
        self._sender = sender
        self._link = link
        self._lock = asyncio.Lock()

    async def read(self, queue: str, take: Callable[[Message], bool] = lambda _: False) -> list[Message]:
        """All messages of a queue, the oldest first; those that `take` agrees to are removed.

        Raises:
            OperationalError: the broker cannot be asked, or another process reads for too long.
        """
        await self.topology.queue(queue)
        channel = await self._link.channel()
        try:
            methods = Methods(raw := await channel.get_underlay_channel())
            async with self._lock, self._alone(methods, queue):
                return await self._read(raw, methods, queue, take)
        except DRIVER_ERRORS as error:
            raise self._link.not_now(error) from error
        finally:
            try:
                await channel.close()  # gives back what was not taken, in its old order
            except DRIVER_ERRORS as error:
                log.debug("closing: %r", error)

    async def _read(
        self, raw: AbstractChannel, methods: Methods, queue: str, take: Callable[[Message], bool]
    ) -> list[Message]:
        count = (await methods.queue_declare(queue, passive=True)).message_count or 0
        arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        found: list[Message] = []
        worn: list[tuple[int, Message]] = []
        if not count:
            return found
        consumer_tag = f"browse-{uuid.uuid4().hex}"
        await methods.consume(queue, arrived.put, consumer_tag)
        while len(found) < count:
            try:
                async with asyncio.timeout(_QUIET):
                    delivered = await arrived.get()
            except TimeoutError:
                break
            message, tag = message_of(delivered, "", queue), delivered.delivery_tag or 0
            is_old = is_worn(message)
            found.append(message)
            if take(message):
                await raw.basic_ack(tag)
            elif is_old:
                worn.append((tag, message))
        await raw.basic_cancel(consumer_tag)
        await self._replace(raw, worn)
        return found

    async def _replace(self, raw: AbstractChannel, worn: Sequence[tuple[int, Message]]) -> None:
        """Put copies in the place of messages that were read so often that a quorum queue may drop them."""
        if not worn:
            return
        failures, unwritten = await self._sender.send_apart([message for _, message in worn])
        for place, (tag, _) in enumerate(worn):
            if place not in failures and place not in unwritten:
                await raw.basic_ack(tag)

    @asynccontextmanager
    async def _alone(self, methods: Methods, queue: str) -> AsyncIterator[None]:
        # An exclusive queue is a lock: only its connection may declare it, and it dies with the connection.
        name = f"{queue}.lock"
        end = asyncio.get_running_loop().time() + max(10.0, self._link.config.timeout)
        while not await self._locked(name):
            if asyncio.get_running_loop().time() > end:
                raise OperationalError(
                    f"another process has been reading {queue!r} on {self._link.shown} for too long"
                )
            await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - jitter
        try:
            yield
        finally:
            await methods.queue_delete(name)

    async def _locked(self, name: str) -> bool:
        try:
            await self.topology.do(
                lambda methods: methods.queue_declare(name, exclusive=True, arguments=CLASSIC)
            )
        except aiormq.exceptions.ChannelLockedResource:
            return False
        return True


class SharedLog:
    """Records that every process of a vhost gets to know.

    A bounded durable queue keeps the last ones for those who come later, a fanout exchange tells those who are
    there. A process sees its own records at once, those of others within milliseconds.
    """

    def __init__(self, link: AmqpLink, sender: AmqpSender, browser: Browser, name: str) -> None:
        self._link, self._sender, self._browser = link, sender, browser
        self._name = name
        self._apply: Callable[[Record], None] = _ignore
        self._me = uuid.uuid4().hex
        self._tap: object = None
        self._early: list[Record] | None = None
        self._channel: object = None
        self._lock = asyncio.Lock()

    def tell(self, apply: Callable[[Record], None]) -> None:
        """Have `apply` called with each record."""
        self._apply = apply

    async def write(self, record: Record) -> None:
        """Tell everybody, also those who come later."""
        self._apply(record)
        body = json_dumps(record | {"from": self._me, "uid": uuid.uuid4().hex})
        try:
            await self._sender.topology.queue(self._name)
            await self._sender.publish([Message({}, body, exchange=self._name, routing_key=self._name)])
        except Refused as error:
            raise OperationalError(str(error)) from error

    async def follow(self, forget: Callable[[], None]) -> None:
        """Get to know all records, and each new one from now on; at most once per connection.

        `forget` is called before a second time: everything is told again.
        """
        if self._tap is self._link.tap and not self._link.tap.closed:
            return
        async with self._lock:
            if self._tap is self._link.tap and not self._link.tap.closed:
                return
            await self._link.ready()
            tap = self._link.tap
            try:
                await self._follow(forget)
            except DRIVER_ERRORS as error:
                raise self._link.not_now(error) from error
            except Refused as error:
                raise OperationalError(str(error)) from error
            self._tap = tap

    async def _follow(self, forget: Callable[[], None]) -> None:
        channel = await self._link.channel()
        methods = Methods(await channel.get_underlay_channel())
        await self._browser.topology.queue(self._name)
        declared = await methods.queue_declare("", exclusive=True, auto_delete=True, arguments=CLASSIC)
        early: list[Record] = []
        self._early = early
        await methods.queue_bind(declared.queue or "", self._name)
        await methods.consume(declared.queue or "", self._on_message, uuid.uuid4().hex, no_ack=True)
        kept = [_record(message.body) for message in await self._browser.read(self._name)]
        forget()
        self._early = None
        known = {record.get("uid") for record in kept}
        for record in (*kept, *(record for record in early if record.get("uid") not in known)):
            self._apply(record)
        self._channel = channel  # its driver closes a channel that nobody refers to

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        record = _record(delivered.body)
        if self._early is not None:
            self._early.append(record)
        elif record.get("from") != self._me:
            self._apply(record)


def _record(body: bytes) -> Record:
    try:
        record = json_loads(body)
    except DecodeError:
        record = None
    return record if isinstance(record, dict) else {}


def _ignore(_record: Record) -> None:
    """Until somebody listens."""
