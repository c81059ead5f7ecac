"""Receiving: a pull face over RabbitMQ's push, on a channel that is opened again whenever it is lost."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from taskq.broker_adapters.amqp.channel import DataChannel
from taskq.broker_adapters.amqp.delay import PREFIX, came_back, is_delayed, returning, undelay
from taskq.broker_adapters.amqp.held import HeldSession, Pushed, Runs, Subscription, Window
from taskq.broker_adapters.amqp.holds import Holds
from taskq.broker_adapters.amqp.link import AmqpLink, ended
from taskq.broker_adapters.amqp.records import DeadLetters, Deaths, Strikes
from taskq.broker_adapters.amqp.sender import AmqpSender, open_data_channel
from taskq.broker_adapters.amqp.topology import Topology
from taskq.clock import now
from taskq.errors import OperationalError, PublishErrors, Refused
from taskq.seams.broker import ANY_SIZE, Consumer
from taskq.wire.message import Delivery, Message

log = logging.getLogger("taskq.amqp")

#: Seconds between tries to consume again, the first and the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class ConsumerShared(NamedTuple):
    """What a consumer shares with its broker; `link` and `topology` are for consuming."""

    link: AmqpLink
    sender: AmqpSender
    topology: Topology
    deaths: Deaths
    dead: DeadLetters


class AmqpConsumer(Consumer):
    """Receives from some queues; see `taskq.seams.broker.Consumer`."""

    def __init__(self, parts: ConsumerShared, queues: Sequence[str], prefetch: int) -> None:
        link = self._link = parts.link
        self._sender, self._topology = parts.sender, parts.topology
        self._deaths, self._dead = parts.deaths, parts.dead
        self._window = Window(prefetch, link.config.held_bytes)
        self._subscription = Subscription(link.config.name, queues, prefetch)
        self._session = HeldSession()
        self._waiting = Pushed()
        self._runs = Runs()
        self._unbalanced = asyncio.Event()
        self._strikes = Strikes(parts.deaths)
        self._news = asyncio.Event()
        self._lost = asyncio.Event()
        self._closed = False
        self._holds = Holds(parts.sender)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def start(self) -> None:
        """Begin to receive.

        Raises:
            OperationalError: the broker cannot be reached, or refuses.
        """
        await self._attach()
        self._tasks = [
            asyncio.create_task(self._keep(), name="taskq-amqp-consumer"),
            asyncio.create_task(self._balance(), name="taskq-amqp-window"),
            asyncio.create_task(self._holds.watch(lambda: self._session), name="taskq-amqp-holds"),
        ]

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        while not self._closed:
            self._news.clear()
            if self._waiting.worn:
                await self._replace_worn()
            if self._waiting.suspects:
                await self._judge()
            if batch := self._waiting.take(limit, max_bytes):
                return batch
            await self._wait()
        return []

    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        session = self._session
        kept = [(delivery, reason) for delivery, reason in reject if self._owns(delivery)]
        returned = [delivery for delivery in requeue if self._owns(delivery)]
        try:
            if kept:
                await self._dead.put_away(kept)
            if returned:
                await self._strikes.ended(returned, self._waiting.unjudged())
        finally:
            if self._channel is None:  # the broker does not hear of it, and delivers them again
                self._runs.lose(filter(session.has, ack), ())
            session.ack(ack)
            self._runs.settle(ack, (*requeue, *(delivery for delivery, _ in reject)))
        session.ack([delivery for delivery, _ in kept])
        session.requeue(returned)
        if self._holds:
            await self._holds.drop([*ack, *(delivery for delivery, _ in kept)])
            await self._holds.give_back(requeue)
        await self._settled(session)

    async def strike(self, delivery: Delivery, count: int = 1) -> None:
        await self._strikes.put(delivery, count)

    async def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        kept = [(delivery, until) for delivery, until in deliveries if self._owns(delivery)]
        self._runs.settle((), [delivery for delivery, _ in deliveries])
        await self._replace(
            [delivery for delivery, _ in kept],
            [
                replace(delivery.message, exchange="", routing_key=delivery.queue, due=until)
                for delivery, until in kept
            ],
        )

    async def _replace(self, held: Sequence[Delivery], copies: Sequence[Message]) -> None:
        """Publish copies of what is held, and remove that."""
        session = self._session
        failures, unwritten = await self._sender.send_apart(copies)
        # What came to us cannot always be written again, or is not taken again.
        never = unwritten | {i: error for i, error in failures.items() if isinstance(error, Refused)}
        later = {i: error for i, error in failures.items() if i not in never}
        await self.settle(
            reject=[(held[i], f"cannot be kept until its time: {error}") for i, error in never.items()]
        )
        done = [delivery for i, delivery in enumerate(held) if i not in later and i not in never]
        session.ack(done)
        await self._holds.drop(done)
        await self._settled(session)
        if later:
            raise PublishErrors(later)

    async def subscribe(self, queues: Sequence[str]) -> None:
        for queue in dict.fromkeys(queues):
            if queue not in self._subscription.queues:
                await self._declare(queue)
                await self._try(queue)
        await self._subscription.subscribe(self._channel, list(dict.fromkeys(queues)))
        await self._give_back_unwanted()

    async def resize(self, prefetch: int) -> None:
        before = self._window.size
        self._window.resize(prefetch)
        if self._window.size != before:
            await self._let_come(self._window.size)

    async def _try(self, queue: str) -> None:
        """Consume from a queue on a channel of its own first: a refusal ends the channel, and all that is held on it."""
        came: list[Delivery] = []

        def deliver(queue_tag: str, tag: int, redelivered: bool, message: Message) -> None:  # noqa: ARG001, FBT001 - the protocol's signature
            came.append(Delivery(message, queue, tag, redelivered))

        channel = await open_data_channel(self._link, confirms=False, deliver=deliver)
        try:
            await channel.consume(queue, "try", 1)
            await channel.cancel("try")
            await self._strikes.unended(came, [delivery for delivery in came if delivery.redelivered])
        finally:
            await channel.close()

    @property
    def _channel(self) -> DataChannel | None:
        """The open one; None while it is being opened again, for what is wanted then."""
        channel = self._session.channel
        return None if channel is None or channel.closed else channel

    async def _give_back_unwanted(self) -> None:
        """What came ahead of a queue that we have turned away from."""
        waiting, unjudged = self._waiting, self._waiting.unjudged()
        rest = waiting.remove_others(self._subscription.queues)
        await self._strikes.unended(rest, unjudged)
        self._session.requeue(rest)
        await self._settled(self._session)

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        lost = [delivery for delivery in held if not self._owns(delivery)]
        self._runs.settle((), lost)  # what comes of them is not wanted any more
        return lost

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._news.set()
        self._holds.stop()
        await ended(*self._tasks[:2])
        await asyncio.gather(*self._tasks[2:], return_exceptions=True)
        await self._detach()

    def _owns(self, delivery: Delivery) -> bool:
        return self._session.has(delivery) or delivery in self._holds

    # -- what arrives

    def _arrived(self, session: HeldSession, queue_tag: str, delivery: Delivery) -> None:
        if session is not self._session:
            return
        message = delivery.message
        queue = delivery.queue = self._subscription.names[queue_tag]
        due = 0.0
        if is_delayed(message):
            due = undelay(message, self._link.config.queue(queue))
        elif came_back(message):
            delivery.redelivered = True
        if delivery.redelivered and (known := self._runs.join(delivery)) is not delivery:
            session.hold(known)
            self._unbalanced.set()
            return
        if session.bytes >= self._window.budget and self._is_too_much(queue_tag):
            self._waiting.refuse(delivery)
            self._unbalanced.set()
        else:
            self._waiting.add(delivery, due)
            self._news.set()
        session.hold(delivery)

    async def _wait(self) -> None:
        due = self._waiting.next_due
        if due is None:
            await self._news.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, due - now())):
                await self._news.wait()
        except TimeoutError:
            return

    async def _judge(self) -> None:
        """Get to know which of the suspects saw a holder die."""
        try:
            await self._deaths.follow()
        except OperationalError as error:
            log.warning("deaths of holders are not known now: %s", error)
        if self._closed:
            return  # they go back, and nobody was handed any of them
        suspects, self._waiting.suspects = self._waiting.suspects, []
        for delivery in suspects:
            delivery.deaths = self._deaths.of(delivery)
        self._waiting.fresh.extendleft(reversed(suspects))
        try:
            await self._deaths.handed_out([delivery for delivery in suspects if not delivery.deaths])
        except OperationalError as error:
            log.warning("a death may be missed: %s", error)

    async def _replace_worn(self) -> None:
        """Put copies in the place of messages that near the limit of deliveries: a copy is counted from 0."""
        worn, self._waiting.worn = self._waiting.worn, []
        try:
            await self._replace(worn, [returning(delivery, PREFIX) for delivery in worn])
        except OperationalError as error:
            log.warning("messages near the delivery limit of their queue are not replaced: %s", error)
        finally:
            self._waiting.suspects += [delivery for delivery in worn if self._session.has(delivery)]

    # -- how much is let come

    def _is_too_much(self, queue_tag: str) -> bool:
        """Whether a message beyond the bytes goes back: not the single one that may always come."""
        return self._window.size > 1 or queue_tag not in self._subscription.tags

    async def _balance(self) -> None:
        while True:
            await self._unbalanced.wait()
            self._unbalanced.clear()
            try:
                await self._rebalance()
            except OperationalError as error:
                log.info("another channel is opened: %s", error)

    async def _let_come(self, size: int) -> None:
        self._window.size = size
        try:
            await self._subscription.resize(self._channel, size)
        except OperationalError:
            self._lost.set()  # who knows what is consumed now
            raise

    async def _rebalance(self) -> None:
        session, window = self._session, self._window
        if self._runs.joined or self._runs.over:
            await self._take_up()
        size = window.wanted(session.bytes, len(session.held) - len(self._waiting.excess))
        if size != window.size:
            log.debug("up to %d messages are let come: those held have %d bytes", size, session.bytes)
            await self._let_come(size)
        if excess := list(self._waiting.excess):
            await self._strikes.unended(excess, self._waiting.unjudged())
            gone = set(excess)
            self._waiting.excess = [delivery for delivery in self._waiting.excess if delivery not in gone]
            session.requeue(excess)
            await self._settled(session)

    async def _take_up(self) -> None:
        """What came again belongs to a run of ours: nobody died, and what has ended is removed."""
        over, self._runs.over = self._runs.over, []
        joined, blamed = self._runs.take_joined()
        log.info("%d deliveries came again while we run them", len(joined) + len(blamed) + len(over))
        self._session.ack(over)
        await self._settled(self._session)
        await self._deaths.handed_out([delivery for delivery in (*joined, *over) if not delivery.deaths])
        for delivery in blamed:
            await self._strikes.put(delivery, 1)

    # -- giving back

    async def _settled(self, session: HeldSession) -> None:
        self._strikes.keep(self._owns)
        if self._window.size < self._window.most:
            self._unbalanced.set()
        if session.channel is not None and not session.channel.closed:
            try:
                await session.channel.flush()
            except OperationalError as error:
                log.info("what was settled comes again: %s", error)

    async def _detach(self) -> None:
        """Stop deliveries first, so that what is given back is all of it, then give back."""
        try:
            held = self._holds.deliveries
            await self._strikes.unended(held, ())
            await self._holds.give_back(held)
        except OperationalError as error:
            log.info("what was held for long returns by itself: %s", error)
        session, channel = self._session, self._session.channel
        if channel is None or channel.closed:
            return
        try:
            await self._subscription.end(channel)
            rest = list(session.held.values())
            await self._strikes.unended(rest, self._waiting.unjudged())
            session.requeue(rest)
            await channel.flush()
            await channel.close()
        except OperationalError as error:
            log.info("the broker gives back what was held: %s", error)

    # -- the channel

    async def _attach(self) -> None:
        for queue in self._subscription.queues:
            await self._declare(queue)
        session = HeldSession()

        def deliver(queue_tag: str, tag: int, redelivered: bool, message: Message) -> None:  # noqa: FBT001 - the protocol's own flag
            self._arrived(session, queue_tag, Delivery(message, "", tag, redelivered))

        channel = session.channel = await open_data_channel(self._link, confirms=False, deliver=deliver)
        lost = asyncio.Event()
        channel.on_closed.append(lost.set)
        channel.on_cancelled.append(lost.set)
        self._session, self._lost = session, lost
        await self._subscription.begin(channel)
        if channel.closed:
            lost.set()

    async def _declare(self, queue: str) -> None:
        """With the delays where Celery's clients send through them: it loses what no worker has declared (3.6)."""
        declared = self._link.config.queue(queue)
        await self._topology.queue(queue, to_consume=True)
        if declared.arguments.get("x-queue-type") == "quorum" and declared.exchange_type != "direct":
            await self._topology.delays(queue)

    async def _keep(self) -> None:
        wait = _FIRST_WAIT
        while True:
            await self._lost.wait()
            old = self._session.channel
            if old is not None and old.refusal is not None:
                self._holds.learn(str(old.refusal))
            await self._forget_held()
            for queue in self._subscription.queues:
                self._topology.forget(queue)
            try:
                if old is not None and not old.closed:
                    await old.close()
                await self._attach()
                wait = _FIRST_WAIT
            except (OperationalError, Refused) as error:
                log.info("cannot consume yet: %s", error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)

    async def _forget_held(self) -> None:
        """The channel is gone: what it brought belongs to the broker again, though nobody died."""
        lost, unjudged = self._session.held.values(), self._waiting.unjudged()
        waiting = self._waiting.all
        self._runs.lose([delivery for delivery in lost if delivery not in waiting], self._strikes.struck)
        self._session = HeldSession()
        self._waiting.clear()
        await self._strikes.unended(lost, unjudged)
        self._strikes.keep(self._holds.__contains__)
