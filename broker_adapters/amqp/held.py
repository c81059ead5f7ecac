"""What RabbitMQ pushes to us: how much may come, what is unsettled on a channel, and what is not handed out yet.

It counts messages (`prefetch`), but not their bytes. What is pushed beyond the bytes is given back, and then so few
messages are let come as fit. Small messages never get there: for them there is one comparison at each arrival.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush

from taskq.broker_adapters.amqp.channel import DataChannel
from taskq.broker_adapters.amqp.sender import NEAR
from taskq.clock import now
from taskq.seams.broker import hand_out
from taskq.wire.message import Delivery, Message

#: How often a quorum queue has delivered a message, and the most we let it come to: RabbitMQ 4 drops a message (or
#: dead-letters it) at 20 by default, and counts what was given back in good order too.
_COUNT, _WORN = "x-delivery-count", 10
#: Ends of runs that are remembered until their deliveries come again.
_ENDED = 1000


def is_worn(message: Message) -> bool:
    """Whether a message nears the limit of deliveries; the broker's count is taken off."""
    times = message.headers.pop(_COUNT, 0)
    return isinstance(times, int) and times >= _WORN


class HeldSession:
    """One channel and what is unsettled on it; gone with the channel, for the broker gives all of it back."""

    def __init__(self) -> None:
        self.channel: DataChannel | None = None
        self.held: dict[int, Delivery] = {}  # by tag, in the order of arrival: tags only grow
        self.bytes = 0  # of their bodies

    def hold(self, delivery: Delivery) -> None:
        """It has arrived."""
        self.held[delivery.tag] = delivery
        self.bytes += len(delivery.message.body)

    def has(self, delivery: Delivery) -> bool:
        """Whether the delivery came on this channel and is not settled."""
        return self.held.get(delivery.tag) is delivery

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove these; one frame for the unbroken run at the front, for it covers all tags before."""
        tags = {delivery.tag for delivery in deliveries if self.has(delivery)}
        channel = self.channel
        if channel is None or not tags:
            return
        run = []
        for tag in self.held:
            if tag not in tags:
                break
            run.append(tag)
        if run:
            channel.ack(run[-1], multiple=len(run) > 1)
        for tag in run:
            self._release(tag)
        for tag in tags.difference(run):
            self._release(tag)
            channel.ack(tag, multiple=False)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give these back."""
        for delivery in deliveries:
            if self.channel is not None and self.has(delivery):
                self._release(delivery.tag)
                self.channel.requeue(delivery.tag)

    def _release(self, tag: int) -> None:
        self.bytes -= len(self.held.pop(tag).message.body)


class Runs:
    """Runs that went on when the channel of their delivery was closed: the broker delivers it again.

    Comes it to us, it joins its run, or is removed where the run has ended well meanwhile.
    """

    def __init__(self) -> None:
        self._going: dict[str, Delivery] = {}
        self._struck: set[Delivery] = set()
        self._ended: dict[str, Delivery] = {}
        #: Those that have come, and those of them that are only to be removed.
        self.joined: list[Delivery] = []
        self.over: list[Delivery] = []

    def lose(self, deliveries: Iterable[Delivery], struck: Collection[Delivery]) -> None:
        """The channel of these is gone, and somebody works on them; some of them were blamed beforehand."""
        self._going.update((key, delivery) for delivery in deliveries if (key := run_of(delivery)))
        self._struck.update(delivery for delivery in self._going.values() if delivery in struck)

    def take_joined(self) -> tuple[list[Delivery], list[Delivery]]:
        """Those that have come since the last time, and were not or were blamed."""
        joined, self.joined = self.joined, []
        blamed = [delivery for delivery in joined if delivery in self._struck]
        self._struck.difference_update(blamed)
        return [delivery for delivery in joined if delivery not in blamed], blamed

    def join(self, delivery: Delivery) -> Delivery:
        """What came; or what has been waiting for it, under its new tag."""
        key = run_of(delivery)
        for runs, found in ((self._going, self.joined), (self._ended, self.over)):
            known = runs.get(key)
            if known is not None and _same(known, delivery):
                del runs[key]
                known.tag = delivery.tag
                found.append(known)
                return known
        return delivery

    def settle(self, ended: Iterable[Delivery], others: Iterable[Delivery] = ()) -> None:
        """Nobody works on these any more; `ended` are those with all that is to come of them."""
        for delivery in others:
            self._drop(delivery)
        for delivery in ended:
            if self._drop(delivery):
                self._ended[run_of(delivery)] = delivery
                if len(self._ended) > _ENDED:
                    del self._ended[next(iter(self._ended))]

    def _drop(self, delivery: Delivery) -> bool:
        key = run_of(delivery)
        if self._going.get(key) is not delivery:
            return False
        del self._going[key]
        self._struck.discard(delivery)
        return True


def run_of(delivery: Delivery) -> str:
    """The name of the run that a delivery asks for, "" where it has none: id and retries."""
    headers = delivery.message.headers
    task_id = headers.get("id") or delivery.message.correlation_id
    return f"{task_id}:{headers.get('retries') or 0}" if task_id else ""


def _same(one: Delivery, other: Delivery) -> bool:
    return one.queue == other.queue and one.message.body == other.message.body


class Pushed:
    """Deliveries by what is to be done with them first."""

    def __init__(self) -> None:
        self.fresh: deque[Delivery] = deque()
        #: Delivered before: did their holder die?
        self.suspects: list[Delivery] = []
        #: Delivered so often that a quorum queue may drop them.
        self.worn: list[Delivery] = []
        #: What there is no room for, without its body: it goes back.
        self.excess: list[Delivery] = []
        self._early: list[tuple[float, int, Delivery]] = []

    def add(self, delivery: Delivery, due: float) -> None:
        """It has arrived; `due` (Unix seconds) of one that was delayed."""
        if is_worn(delivery.message):
            self.worn.append(delivery)
        elif delivery.redelivered:
            self.suspects.append(delivery)
        elif 0 < due - now() <= NEAR + 1:
            heappush(self._early, (due, delivery.tag, delivery))
        else:
            self.fresh.append(delivery)

    @property
    def all(self) -> set[Delivery]:
        """Whatever is not handed out."""
        early = (delivery for _, _, delivery in self._early)
        return {*self.fresh, *self.suspects, *self.worn, *self.excess, *early}

    def refuse(self, delivery: Delivery) -> None:
        """It has arrived, and there is no room for it."""
        delivery.message.body = b""
        self.excess.append(delivery)

    @property
    def next_due(self) -> float | None:
        """When the next of the early ones is due (Unix seconds)."""
        return self._early[0][0] if self._early else None

    def take(self, limit: int, max_bytes: int) -> list[Delivery]:
        """What may be handed out now."""
        while self._early and self._early[0][0] <= now():
            self.fresh.append(heappop(self._early)[2])
        return hand_out(self.fresh, limit, max_bytes)

    def unjudged(self) -> set[Delivery]:
        """Those whose earlier holders nobody has asked for."""
        return {*self.suspects, *self.worn, *(delivery for delivery in self.excess if delivery.redelivered)}

    def remove_others(self, queues: Collection[str]) -> list[Delivery]:
        """Take out what is not of these queues."""
        early = (delivery for _, _, delivery in self._early)
        waiting = (*self.fresh, *self.suspects, *self.worn, *early)
        gone = [delivery for delivery in waiting if delivery.queue not in queues]
        self.fresh = deque(delivery for delivery in self.fresh if delivery.queue in queues)
        self.suspects = [delivery for delivery in self.suspects if delivery.queue in queues]
        self.worn = [delivery for delivery in self.worn if delivery.queue in queues]
        self._early = [entry for entry in self._early if entry[2].queue in queues]
        heapify(self._early)
        return gone

    def clear(self) -> None:
        """Forget all of it."""
        for kind in (self.fresh, self.suspects, self.worn, self.excess, self._early):
            kind.clear()


class Window:
    """How many messages are let come. Knows no channel.

    Args:
        most: so many while they are small.
        budget: no more once what is held comes to so many bytes.
    """

    def __init__(self, most: int, budget: int) -> None:
        self.most = most
        self.size = most
        self.budget = budget
        self._mean = 1.0

    def resize(self, most: int) -> None:
        """Let up to so many come from now on, unless their bytes forbid."""
        self.size = most if self.size == self.most else min(self.size, most)
        self.most = most

    def wanted(self, held: int, count: int) -> int:
        """How many are to be let come, with so many bytes held in so many messages.

        One, while there is no room. More only once half of it is free and less than a quarter is made use of: a
        change costs some round trips.
        """
        if count:
            self._mean = max(1.0, held / count)
        if held >= self.budget:
            return 1
        if 2 * held > self.budget or 4 * self.size * self._mean > self.budget:
            return self.size
        return max(self.size, min(self.most, int((self.budget - held) / self._mean)))


class Subscription:
    """The queues that are pushed to us on a channel, each under a tag of its own.

    The number of messages is a consumer's for its life: to change it, there is another one before the old one goes,
    for a queue may go with its last consumer. So each queue has two tags, which take turns.
    """

    def __init__(self, name: str, queues: Sequence[str], size: int) -> None:
        self._name = name
        self._numbers: dict[str, int] = {}
        self._turn = 0
        self._size = size
        self._changing = asyncio.Lock()
        #: Queues by all tags whose messages may still arrive, and by those of now.
        self.names: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self._name_all(queues)

    @property
    def queues(self) -> list[str]:
        """Those of now."""
        return list(self.tags.values())

    async def begin(self, channel: DataChannel) -> None:
        """Consume on a new channel."""
        async with self._changing:
            await self._consume(channel, self.tags)

    async def subscribe(self, channel: DataChannel | None, queues: Sequence[str]) -> None:
        """Consume from these alone; without a channel, on the one that comes."""
        async with self._changing:
            old = self.tags
            self._name_all(queues)
            if channel is not None:
                await self._consume(
                    channel, {tag: queue for tag, queue in self.tags.items() if tag not in old}
                )
                await self._cancel(channel, [tag for tag in old if tag not in self.tags])

    async def resize(self, channel: DataChannel | None, size: int) -> None:
        """Let so many messages come."""
        async with self._changing:
            old, self._size = self.tags, size
            self._turn = 1 - self._turn
            self._name_all(list(old.values()))
            if channel is not None:
                await self._consume(channel, self.tags)
                await self._cancel(channel, old)

    async def end(self, channel: DataChannel) -> None:
        """Have no more delivered."""
        async with self._changing:
            await self._cancel(channel, self.tags)

    def _name_all(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._numbers.setdefault(queue, len(self._numbers))
        self.tags = {f"{self._name}-{self._numbers[queue]}.{self._turn}": queue for queue in queues}
        self.names |= self.tags

    async def _consume(self, channel: DataChannel, tags: dict[str, str]) -> None:
        for tag, queue in tags.items():
            await channel.consume(queue, tag, max(1, self._size // len(self.tags)))

    async def _cancel(self, channel: DataChannel, tags: Sequence[str] | dict[str, str]) -> None:
        for tag in tags:
            await channel.cancel(tag)
