"""Publishing: one channel with confirms for everybody, hundreds of messages in flight."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

from taskq.broker_adapters.amqp.channel import DataChannel, Deliver, Failures
from taskq.broker_adapters.amqp.delay import delayed_key, entry
from taskq.broker_adapters.amqp.link import AmqpLink
from taskq.broker_adapters.amqp.marks import DUE_HEADER
from taskq.broker_adapters.amqp.plain import PlainChannel
from taskq.broker_adapters.amqp.tables import short_string
from taskq.broker_adapters.amqp.tapped import TappedChannel
from taskq.broker_adapters.amqp.topology import Topology
from taskq.clock import now
from taskq.errors import EncodeError, OperationalError, PublishErrors, Unroutable
from taskq.seams.broker import Queue
from taskq.wire.message import Message

#: How RabbitMQ closes the channel of a message beyond its `max_message_size` (16 MiB since 4.0, before that 128 MiB).
_TOO_LARGE = re.compile(r"message size \d+ (?:is )?larger than (?:configured )?max size (\d+)")
#: Messages due within these seconds go to their queue at once and are held by the consumer for that long.
NEAR = 2.0


async def open_data_channel(link: AmqpLink, *, confirms: bool, deliver: Deliver | None = None) -> DataChannel:
    """A channel for messages: with our own codec, unless `broker_transport_options["codec"]` is False."""
    kind = TappedChannel if link.config.options.get("codec", True) else PlainChannel
    channel = kind(link, await link.channel(confirms=confirms), deliver)
    await channel.start()
    return channel


class AmqpSender:
    """Sends messages over a link."""

    def __init__(self, link: AmqpLink) -> None:
        self.link = link
        self.topology = Topology(link)
        self._channel: DataChannel | None = None
        self._opening = asyncio.Lock()

    async def publish(self, messages: Sequence[Message]) -> None:
        """As `Broker.publish`."""
        failures = await self.send(messages)
        if len(failures) == len(messages) > 0:
            raise next(iter(failures.values()))
        if failures:
            raise PublishErrors(failures)

    async def send(self, messages: Sequence[Message]) -> Failures:
        """Publish; index -> error of those not known to be safe.

        Raises:
            OperationalError: there is no connection: nothing was sent.
            EncodeError: one of them cannot be written: nothing was sent.
        """
        self._check_sizes(messages)
        failures: Failures = {}
        ready: list[Message] = []
        places: list[int] = []
        for index, message in enumerate(messages):
            try:
                ready.append(await self._route(message) if self._needs_care(message) else message)
                places.append(index)
            except Unroutable as error:
                failures[index] = error
        refused = await self._transmit(ready) if ready else {}
        if len(refused) == len(messages) == 1:
            self._check_sizes(messages)
        return failures | {places[index]: error for index, error in refused.items()}

    async def send_apart(self, messages: Sequence[Message]) -> tuple[Failures, dict[int, EncodeError]]:
        """The same, where those that cannot be written do not stop the others: they are the second part."""
        try:
            return await self.send(messages), {}
        except EncodeError as error:
            if len(messages) == 1:
                return {}, {0: error}
        failures: Failures = {}
        unwritten: dict[int, EncodeError] = {}
        for index, message in enumerate(messages):
            refused, hopeless = await self.send_apart([message])
            failures.update((index, error) for error in refused.values())
            unwritten.update((index, error) for error in hopeless.values())
        return failures, unwritten

    async def _transmit(self, messages: Sequence[Message]) -> Failures:
        channel = await self._open()
        timeout = self.link.config.timeout
        failures = await channel.send(messages, timeout)
        lost = [
            i for i, error in failures.items() if isinstance(error, Unroutable) and not messages[i].exchange
        ]
        if not lost:
            return failures
        # The queue was there, or was declared, and is gone: declare it and try once more.
        try:
            for index in lost:
                self.topology.forget(messages[index].routing_key)
                await self.topology.target("", messages[index].routing_key)
        except OperationalError as error:  # the others are safe all the same
            return failures | dict.fromkeys(lost, error)
        again = await channel.send([messages[index] for index in lost], timeout)
        kept = {index: error for index, error in failures.items() if index not in lost}
        return kept | {lost[place]: error for place, error in again.items()}

    def _needs_care(self, message: Message) -> bool:
        return message.due is not None or not self.topology.knows(message.exchange, message.routing_key)

    async def _route(self, message: Message) -> Message:
        """Declare what takes the message; send it through the delays if it is for later."""
        short_string(message.exchange)  # the driver's own errors about names tell less
        short_string(message.routing_key)
        await self.topology.target(message.exchange, message.routing_key)
        if message.due is None:
            return message
        headers = {**message.headers, DUE_HEADER: message.due}
        queue = self._delayed_queue(message)
        wait = message.due - now()
        if wait < NEAR or queue is None:
            return replace(message, headers=headers)
        await self.topology.delays(queue.name)
        key = message.routing_key if message.exchange else queue.name
        return replace(message, headers=headers, exchange=entry(wait), routing_key=delayed_key(wait, key))

    def _delayed_queue(self, message: Message) -> Queue | None:
        """The one queue the delays can give the message to; None: its worker holds or parks it instead."""
        if not message.exchange:
            return self.link.config.queue(message.routing_key)
        queue = self.topology.behind(message.exchange, message.routing_key)
        return queue if queue is not None and queue.exchange_type == "topic" else None

    async def _open(self) -> DataChannel:
        await self._unblocked()
        channel = self._channel
        if channel is not None and not channel.closed:
            return channel
        async with self._opening:
            if self._channel is None or self._channel.closed:
                channel = self._channel = await open_data_channel(self.link, confirms=True)
                channel.on_closed.append(lambda: self._closed(channel))
            return self._channel

    def _closed(self, channel: DataChannel) -> None:
        """The channel is gone. If the broker closed it, a target was deleted or a message is too large."""
        self.topology.forget_all()
        if found := _TOO_LARGE.search(str(channel.refusal)):
            channel.tap.largest = int(found[1])

    def _check_sizes(self, messages: Sequence[Message]) -> None:
        largest = self.link.tap.largest
        if (
            largest is not None
            and (size := max((len(message.body) for message in messages), default=0)) > largest
        ):
            raise EncodeError(
                f"{self.link.shown} takes messages of at most {largest} bytes, one has {size}: raise its "
                "`max_message_size`, or pass a reference to the data"
            )

    async def _unblocked(self) -> None:
        tap = self.link.tap
        if not tap.blocked:
            return
        # Counted from its beginning: who tries again and again does not wait so long each time.
        try:
            async with asyncio.timeout_at(tap.blocked_at + self.link.config.timeout):
                await tap.unblocked.wait()
        except TimeoutError:
            raise self.link.full(maybe_accepted=False) from None
