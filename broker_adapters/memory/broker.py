"""The broker inside one process: the reference implementation of the seam, for tests, examples and benchmarks.

`memory://name` names a hub of the process; every connection to the same name shares it, from any event loop
or thread. What it holds are encoded envelopes, so that it costs what a broker costs, without the network.
"""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import ClassVar

from taskq.broker_adapters.memory.bus import MemoryBus
from taskq.broker_adapters.memory.line import Line, Tag, Waiter
from taskq.broker_adapters.memory.once import OnceNames
from taskq.clock import now
from taskq.errors import DecodeError
from taskq.seams.broker import ANY_SIZE, Broker, BrokerConfig, Consumer, Features
from taskq.seams.exchanges import address, raise_refused
from taskq.seams.records import KeptRecords
from taskq.wire.envelope import loads
from taskq.wire.message import DeadLetter, Delivery, Message, id_of

#: Seconds between two looks at the leases of others while nothing arrives.
SWEEP = 1.0


class MessageHub:
    """All queues of one name. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders = count(1)
        self._lines: defaultdict[str, Line] = defaultdict(Line)
        self._parked: list[tuple[float, int, Waiter]] = []
        self._consumers: set[MemoryConsumer] = set()
        self.kept = KeptRecords()
        self.names = OnceNames()

    def add(self, messages: Iterable[tuple[str, int, bytes]]) -> None:
        """Queue these messages: queue, priority, envelope."""
        entries = [Waiter(next(self._orders), *message) for message in messages]
        with self._lock:
            for entry in entries:
                self._lines[entry.queue].append(entry)
            self._wake({entry.queue for entry in entries})

    def join(self, consumer: "MemoryConsumer") -> None:
        with self._lock:
            self._consumers.add(consumer)

    def leave(self, consumer: "MemoryConsumer") -> None:
        with self._lock:
            self._consumers.discard(consumer)
            self._give_back(consumer)

    def claim(self, consumer: "MemoryConsumer", limit: int, max_bytes: int) -> list[Waiter]:
        """Take up to `limit` messages into the consumer's custody; when there are none it will be woken."""
        time = now()
        taken: list[Waiter] = []
        with self._lock:
            self._return_parked(time)
            self._return_lost(consumer, time)
            lines = [self._lines[name] for name in consumer.rotate()]
            share = -(-limit // max(1, len(lines)))
            for most in (share, limit):  # what one queue does not use of its share goes to the others
                for line in lines:
                    max_bytes -= line.take(min(most, limit - len(taken)), max_bytes, taken)
            for entry in taken:
                entry.claims += 1
                consumer.held[entry] = entry.claims
            consumer.leased_until = time + consumer.lease
            consumer.idle = limit > 0 and not taken
        return taken

    def remove(self, consumer: "MemoryConsumer", tags: Iterable[Tag]) -> list[Waiter]:
        """End the custody of these; those whose lease was lost meanwhile are left out."""
        with self._lock:
            ours = [entry for entry, claim in tags if consumer.held.get(entry) == claim]
            for entry in ours:
                del consumer.held[entry]
            return ours

    def requeue(self, entries: Sequence[Waiter]) -> None:
        with self._lock:
            self._return(entries)

    def park(self, entries: Sequence[tuple[Waiter, float]]) -> None:
        with self._lock:
            for entry, until in entries:
                heappush(self._parked, (until, entry.order, entry))
            self._wake({entry.queue for entry, _ in entries})

    def renew(self, consumer: "MemoryConsumer", deliveries: Iterable[Delivery]) -> list[Delivery]:
        with self._lock:
            consumer.leased_until = now() + consumer.lease
            return [one for one in deliveries if consumer.held.get(one.tag[0]) != one.tag[1]]

    def renew_all(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """The leases of these, whoever holds them."""
        with self._lock:
            holders = {entry: consumer for consumer in self._consumers for entry in consumer.held}
            lost = []
            for one in deliveries:
                holder = holders.get(one.tag[0])
                if holder is None or holder.held[one.tag[0]] != one.tag[1]:
                    lost.append(one)
                else:
                    holder.leased_until = now() + holder.lease
            return lost

    def next_event(self) -> float:
        """Seconds until something may be ready without anyone telling: a parked message, a lost lease."""
        with self._lock:
            times = [consumer.leased_until for consumer in self._consumers if consumer.held]
            times += [self._parked[0][0]] if self._parked else []
        return max(0.0, min(SWEEP, min(times, default=now() + SWEEP) - now()))

    def size(self, queue: str) -> int:
        with self._lock:
            return len(self._lines[queue]) + sum(entry.queue == queue for _, _, entry in self._parked)

    def ready(self, queue: str) -> int:
        with self._lock:
            return len(self._lines[queue])

    def purge(self, queue: str) -> int:
        with self._lock:
            kept = sorted(item for item in self._parked if item[2].queue != queue)
            removed = len(self._lines[queue]) + len(self._parked) - len(kept)
            self._lines[queue].clear()
            self._parked = kept
        return removed

    def promote(self, queue: str) -> None:
        with self._lock:
            self._return_now(lambda entry: entry.queue == queue)

    def recall(self, task_ids: Collection[str]) -> None:
        with self._lock:
            self._return_now(lambda entry: id_of(loads(entry.raw)) in task_ids)

    # What follows is called with the lock held.

    def _return(self, entries: Iterable[Waiter]) -> None:
        returned = sorted(entries, key=lambda entry: entry.order, reverse=True)
        for entry in returned:
            entry.redelivered = True
            self._lines[entry.queue].put_back(entry)
        self._wake({entry.queue for entry in returned})

    def _give_back(self, consumer: "MemoryConsumer") -> None:
        self._return(consumer.held)
        consumer.held.clear()

    def _return_parked(self, time: float) -> None:
        while self._parked and self._parked[0][0] <= time:
            self._return([heappop(self._parked)[2]])

    def _return_now(self, chosen: Callable[[Waiter], bool]) -> None:
        found = [item for item in self._parked if chosen(item[2])]
        self._parked = sorted(set(self._parked).difference(found))
        self._return(entry for _, _, entry in found)

    def _return_lost(self, finder: "MemoryConsumer", time: float) -> None:
        for other in self._consumers:
            if other.held and other.leased_until <= time and other is not finder:
                for entry in other.held:
                    entry.deaths = max(entry.deaths, 1)
                self._give_back(other)

    def _wake(self, queues: set[str]) -> None:
        for consumer in self._consumers:
            if consumer.idle and not queues.isdisjoint(consumer.queues):
                consumer.wake()


HUBS: defaultdict[str, MessageHub] = defaultdict(MessageHub)


class MemoryConsumer(Consumer):
    """Receives from some queues of a hub; see `taskq.seams.broker.Consumer`."""

    def __init__(self, hub: MessageHub, queues: Sequence[str], prefetch: int, lease: float) -> None:
        self.queues = deque(dict.fromkeys(queues))
        self.lease = lease
        self.leased_until = 0.0
        self.held: dict[Waiter, int] = {}
        self.idle = False
        self._hub = hub
        self._prefetch = prefetch
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def rotate(self) -> Sequence[str]:
        """The queues, beginning with another one at each call."""
        self.queues.rotate(-1)
        return self.queues

    def wake(self) -> None:
        self.idle = False
        if asyncio.get_running_loop() is self._loop:
            self._news.set()
        else:
            with suppress(RuntimeError):  # its loop has ended: nobody waits there
                self._loop.call_soon_threadsafe(self._news.set)

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        while not self._closed:
            self._news.clear()
            entries = self._hub.claim(self, min(limit, self._prefetch - len(self.held)), max_bytes)
            if deliveries := [delivery for entry in entries if (delivery := self._open(entry)) is not None]:
                return deliveries
            if entries:  # none of them was readable: the next may be
                continue
            try:
                async with asyncio.timeout(self._hub.next_event()):
                    await self._news.wait()
            except TimeoutError:
                continue
        return []

    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        self._hub.remove(self, [delivery.tag for delivery in ack])
        self._hub.names.forget_soon(name for delivery in ack for name in delivery.once)
        self._hub.requeue(self._hub.remove(self, [delivery.tag for delivery in requeue]))
        for delivery, reason in reject:
            if self._hub.remove(self, [delivery.tag]):
                self._bury(delivery.tag[0], reason, delivery.message)
        self._news.set()

    async def strike(self, delivery: Delivery, count: int = 1) -> None:
        delivery.tag[0].deaths += count

    async def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        for delivery, due in deliveries:
            self._hub.park([(entry, due) for entry in self._hub.remove(self, [delivery.tag])])
        self._news.set()

    async def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._news.set()

    async def subscribe(self, queues: Sequence[str]) -> None:
        self.queues = deque(dict.fromkeys(queues))
        self._news.set()

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._hub.renew(self, held)

    async def close(self) -> None:
        self._closed = True
        self._hub.leave(self)
        self._news.set()

    def _open(self, entry: Waiter) -> Delivery | None:
        tag = (entry, self.held.get(entry, 0))
        try:
            message = loads(entry.raw)
        except DecodeError as error:
            self._hub.remove(self, [tag])
            self._bury(entry, str(error), None)
            return None
        return Delivery(message, entry.queue, tag, entry.redelivered, entry.deaths, entry.order)

    def _bury(self, entry: Waiter, reason: str, message: Message | None) -> None:
        raw = entry.raw if message is None else b""
        self._hub.kept.bury([DeadLetter(str(entry.order), entry.queue, reason, now(), message, raw)])


class MemoryBroker(Broker):
    """Connects to the hub of its name; see `taskq.seams.broker.Broker`.

    Messages with a `due` are delivered at once: their worker holds them, or parks them here.
    """

    features: ClassVar[Features] = Features(persistent=False, leases=True, once=True)

    def __init__(self, config: BrokerConfig) -> None:
        self._hub = HUBS[config.url]
        self.kept = self._hub.kept
        self.kept.retention = config.retention
        self._config = config
        self._lease = config.lease
        self._consumers: list[MemoryConsumer] = []
        self.bus: MemoryBus = MemoryBus(config.url, config.retention.announced)

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()
        await self.bus.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        addressed, failures = address(messages, self._config)
        fresh = self._hub.names.are_new([one.once for one in addressed])
        self._hub.add(
            (queue, message.priority, raw)
            for (queue, _, message, raw), is_fresh in zip(addressed, fresh, strict=True)
            if is_fresh
        )
        raise_refused(failures, len(messages))

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> MemoryConsumer:
        consumer = MemoryConsumer(self._hub, queues, prefetch, self._lease)
        self._consumers.append(consumer)
        self._hub.join(consumer)
        return consumer

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._hub.renew_all(held)

    async def size(self, queue: str) -> int:
        return self._hub.size(queue)

    async def ready(self, queue: str) -> int:
        return self._hub.ready(queue)

    async def purge(self, queue: str) -> int:
        return self._hub.purge(queue)

    async def promote(self, queue: str) -> None:
        self._hub.promote(queue)

    async def recall(self, task_ids: Sequence[str]) -> None:
        self._hub.recall(frozenset(task_ids))
