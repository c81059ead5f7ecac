"""What a consumer holds on one channel."""

from collections.abc import Sequence

from taskq.broker_adapters.amqp.channel import DataChannel
from taskq.wire.message import Delivery


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
