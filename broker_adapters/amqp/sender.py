"""Publishing: one channel with confirms for everybody, hundreds of messages in flight.

A message is published first, and what is to take it is declared when it comes back: a new connection costs no
declarations. RabbitMQ closes a channel over a single message that it refuses, and with it goes what others have on it.
So the first message to an exchange, and the first of a size, goes over a channel of its own; and if the common one is
closed all the same, those on it follow one by one, each to its own end.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from typing import Final

import aiormq

from taskq.broker_adapters.amqp.channel import ChannelRefused, DataChannel, Deliver, Failures, PlainChannel
from taskq.broker_adapters.amqp.delay import DUE_HEADER, ENTRIES, address, delayed_key, entry
from taskq.broker_adapters.amqp.link import AmqpLink, OneAttempt
from taskq.broker_adapters.amqp.tables import short_string
from taskq.broker_adapters.amqp.tapped import TappedChannel
from taskq.broker_adapters.amqp.topology import Topology
from taskq.clock import now
from taskq.errors import BrokerFull, EncodeError, OperationalError, PublishErrors, Refused, Unroutable
from taskq.seams.broker import Queue
from taskq.wire.message import Message

#: Messages due within these seconds go to their queue at once and are held by the consumer for that long.
NEAR = 2.0
#: A body of so many bytes is taken by any server: nobody sets `max_message_size` so low.
_SMALL: Final = 65_536

Failure = OperationalError | Refused


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
        self.topology = Topology(link, lasting=True)
        self._common = _Outlet(link)
        self._apart = _Outlet(link)
        self._one_apart = asyncio.Lock()
        #: Exchanges that have taken a message, and the size of the largest body that was taken.
        self._tried = {""}
        self._taken = _SMALL

    async def publish(self, messages: Sequence[Message]) -> None:
        """As `Broker.publish`."""
        failures = await self.send(messages)
        if not failures:
            return
        if len(failures) == len(messages):
            first, *others = failures.values()
            if not others or (isinstance(first, OperationalError) and _alike(first, others)):
                raise first
        raise PublishErrors(failures)

    async def send(self, messages: Sequence[Message]) -> Failures:
        """Publish; index -> error of those not known to be safe.

        Raises:
            OperationalError: there is no connection: nothing was sent.
            EncodeError: one of them cannot be written: nothing was sent.
        """
        channel = await self._common.open()
        if any(map(self._needs_care, messages)):
            return await self._send_with_care(channel, messages)
        sent = _time()
        failures = await channel.send(messages, self.link.config.timeout)
        return await self._mended(dict(enumerate(messages)), failures, sent) if failures else failures

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

    # -- over the common channel

    async def _mended(self, messages: Mapping[int, Message], failures: Failures, sent: float) -> Failures:
        """What is left of these failures once queues are declared, and doubtful messages have gone one by one."""
        if any(isinstance(error, BrokerFull) for error in failures.values()):
            self._common.retire()
        lost = {i: messages[i] for i, error in failures.items() if isinstance(error, Unroutable)}
        if lost:
            again = await self._send_again(lost, sent)
            failures = {i: error for i, error in failures.items() if i not in lost} | again
        doubtful = {i: messages[i] for i, error in failures.items() if isinstance(error, ChannelRefused)}
        if doubtful:
            known = {i: error for i, error in failures.items() if i not in doubtful}
            failures = known | await self._send_one_by_one(doubtful)
        return failures

    async def _transmit(self, messages: Mapping[int, Message]) -> Failures:
        if not messages:
            return {}
        channel = await self._common.open()
        failures = await channel.send(list(messages.values()), self.link.config.timeout)
        if not failures:
            return failures
        places = list(messages)
        return {places[place]: error for place, error in failures.items()}

    async def _send_again(self, lost: Mapping[int, Message], sent: float) -> Failures:
        """Those that came back: their queue is not there yet, or not any more. Declare it and try once more."""
        failures: Failures = {}
        problems: dict[tuple[str, str], Failure | None] = {}
        for index, message in lost.items():
            target = (message.exchange, message.routing_key)
            if target not in problems:
                problems[target] = await self._declare(*target, sent)
            if (problem := problems[target]) is not None:
                failures[index] = problem
        return failures | await self._transmit({i: m for i, m in lost.items() if i not in failures})

    async def _declare(self, exchange: str, routing_key: str, sent: float) -> Failure | None:
        try:
            await self.topology.target(exchange, routing_key, sent)
        except (OperationalError, Refused) as error:
            return error
        return None

    # -- one by one

    async def _send_with_care(self, channel: DataChannel, messages: Sequence[Message]) -> Failures:
        failures: Failures = {}
        routed = await self._routed(messages, failures)
        channel.check(list(routed.values()))
        first = self._first_of_their_kind(routed)
        failures |= await self._send_one_by_one(first)
        rest = {i: message for i, message in routed.items() if i not in first}
        new = {i: message for i, message in rest.items() if self._is_new(message)}
        common = {i: message for i, message in rest.items() if i not in new}
        sent = _time()
        failures |= await self._mended(common, await self._transmit(common), sent)
        return failures | await self._send_one_by_one(new)

    def _first_of_their_kind(self, messages: Mapping[int, Message]) -> dict[int, Message]:
        """Those by which it is seen whether others like them can go over the common channel."""
        first: dict[int, Message] = {}
        exchanges, largest = set(self._tried), self._taken
        for index, message in messages.items():
            if message.exchange not in exchanges or len(message.body) > largest:
                first[index] = message
                exchanges.add(message.exchange)
                largest = max(largest, len(message.body))
        return first

    async def _send_one_by_one(self, messages: Mapping[int, Message]) -> Failures:
        failures: Failures = {}
        end = _time() + self.link.config.timeout
        for index, message in messages.items():
            if _time() > end:
                failures[index] = OperationalError(
                    f"{self.link.shown} was too slow to send this message, too"
                )
            elif (error := await self._send_alone(message)) is not None:
                failures[index] = error
        return failures

    async def _send_alone(self, message: Message) -> Failure | None:
        """Publish one message over a channel that carries nothing else now: what is refused is this one."""
        async with self._one_apart:
            sent = _time()
            error = await self._try_alone(message)
            if _found_nothing(error):
                problem = await self._declare(message.exchange, message.routing_key, sent)
                error = problem or await self._try_alone(message)
        if isinstance(error, ChannelRefused):
            return self.link.error(error.reason)
        if isinstance(error, BrokerFull):
            self._apart.retire()
        if error is None:
            self._tried.add(message.exchange)
            self._taken = max(self._taken, len(message.body))
        return error

    async def _try_alone(self, message: Message) -> Failure | None:
        if self.link.largest is not None and len(message.body) > self.link.largest:
            return self.link.too_large(len(message.body))
        try:
            channel = await self._apart.open()
        except OperationalError as error:
            return error
        return (await channel.send([message], self.link.config.timeout)).get(0)

    # -- what is to be looked after

    def _needs_care(self, message: Message) -> bool:
        return (
            message.due is not None or message.exchange not in self._tried or len(message.body) > self._taken
        )

    def _is_new(self, message: Message) -> bool:
        """Whether nothing like it was taken before."""
        return message.exchange not in self._tried or len(message.body) > self._taken

    async def _routed(self, messages: Sequence[Message], failures: Failures) -> dict[int, Message]:
        """By which exchange they go: those for later through the delays. Those that cannot go are failures."""
        routed: dict[int, Message] = {}
        problems: dict[str, Failure] = {}
        for index, message in enumerate(messages):
            queue = self._delayed_queue(message) if message.due is not None else None
            if queue is not None and queue.name not in problems:
                try:
                    await self.topology.delays(queue.name)
                    self._tried |= ENTRIES
                except (OperationalError, Refused) as error:
                    problems[queue.name] = error
            if queue is not None and queue.name in problems:
                failures[index] = problems[queue.name]
            else:
                routed[index] = message if message.due is None else _delayed(message, queue)
        return routed

    def _delayed_queue(self, message: Message) -> Queue | None:
        """The one queue the delays can give the message to; None: its worker holds or parks it instead.

        Raises:
            EncodeError: its time is no number, or an address is none.
        """
        due = message.due or 0.0
        if not isfinite(due):
            raise EncodeError(f"a task is due at a finite time, not at {due!r}")
        if due - now() < NEAR:
            return None
        if not message.exchange:
            short_string(message.routing_key)
            return self.link.config.queue(message.routing_key)
        queue = self.topology.behind(message.exchange, message.routing_key)
        return queue if queue is not None and queue.exchange_type == "topic" else None


class _Outlet:
    """A channel with confirms that is opened when it is needed, by one attempt however many wait for it."""

    def __init__(self, link: AmqpLink) -> None:
        self._link = link
        self._channel: DataChannel | None = None
        self._retired: DataChannel | None = None
        self._closing: asyncio.Task[None] | None = None
        self._opening = OneAttempt(self._open)

    async def open(self) -> DataChannel:
        """The present one. Raises OperationalError."""
        if self._link.tap.blocked:
            await self._unblocked()
        if self._channel is None or self._channel.closed:
            return await self._opening()
        return self._channel

    def retire(self) -> None:
        """Use another one from now on; this one is closed once nobody can wait for its confirms any more.

        A channel of RabbitMQ 3.10 that was opened while a quorum queue elected its leader refuses for ever what is sent to it.
        """
        if self._retired is None and self._channel is not None:
            self._retired, self._channel = self._channel, None
            asyncio.get_running_loop().call_later(2 * self._link.config.timeout, self._let_go)

    def _let_go(self) -> None:
        retired, self._retired = self._retired, None
        if retired is not None and not retired.closed:
            self._closing = asyncio.create_task(_close(retired))

    async def _open(self) -> DataChannel:
        self._channel = await open_data_channel(self._link, confirms=True)
        return self._channel

    async def _unblocked(self) -> None:
        tap = self._link.tap
        # Counted from its beginning: who tries again and again does not wait so long each time.
        try:
            async with asyncio.timeout_at(tap.blocked_at + self._link.config.timeout):
                await tap.unblocked.wait()
        except TimeoutError:
            raise self._link.full(maybe_accepted=False) from None


async def _close(channel: DataChannel) -> None:
    with suppress(OperationalError, Refused):
        await channel.close()


def _time() -> float:
    return asyncio.get_running_loop().time()


def _delayed(message: Message, queue: Queue | None) -> Message:
    due = message.due or 0.0
    headers = {**message.headers, DUE_HEADER: due}
    if queue is None:
        return replace(message, headers=headers)
    wait = due - now()
    key = message.routing_key if message.exchange else address(queue.name)
    return replace(message, headers=headers, exchange=entry(wait), routing_key=delayed_key(wait, key))


def _found_nothing(error: Failure | None) -> bool:
    """Whether what is to take the message may have to be declared."""
    if isinstance(error, ChannelRefused):
        return isinstance(error.reason, aiormq.exceptions.ChannelNotFoundEntity)
    return isinstance(error, Unroutable)


def _alike(first: Failure, others: Sequence[Failure]) -> bool:
    return all(type(other) is type(first) for other in others)
