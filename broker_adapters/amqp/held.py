"""What was pushed to us: all that is unsettled on a channel, and of that what is not handed out yet."""

from collections import deque
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush

from taskq.broker_adapters.amqp.channel import DataChannel
from taskq.broker_adapters.amqp.sender import NEAR
from taskq.clock import now
from taskq.seams.broker import hand_out
from taskq.wire.message import Delivery

#: How often a quorum queue has delivered a message, and the most we let it come to: RabbitMQ 4 drops a message (or
#: dead-letters it) at 20 by default, and counts what was given back in good order too.
_COUNT, _WORN = "x-delivery-count", 10


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
        if (times := delivery.message.headers.pop(_COUNT, 0)) and isinstance(times, int) and times >= _WORN:
            self.worn.append(delivery)
        elif delivery.redelivered:
            self.suspects.append(delivery)
        elif 0 < due - now() <= NEAR + 1:
            heappush(self._early, (due, delivery.tag, delivery))
        else:
            self.fresh.append(delivery)

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
