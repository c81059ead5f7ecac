"""How much RabbitMQ may push to us: messages by its own count (`prefetch`), and bytes, which it does not count.

What is pushed beyond the bytes is given back, and then so few messages are let come as fit. Small messages never get
there: for them there is one comparison at each arrival.
"""

import asyncio
from collections.abc import Sequence

from taskq.broker_adapters.amqp.channel import DataChannel


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
