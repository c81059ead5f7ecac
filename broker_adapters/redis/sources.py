"""The lists a consumer claims from, and whose turn it is to be first."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from taskq.broker_adapters.redis.claims import claim_suffix, tag_prefix
from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.session import Reply


class ClaimList(NamedTuple):
    """One list we claim from."""

    key: str
    queue: str
    tag_prefix: str
    suffix: str


class Asked(NamedTuple):
    """A claim on its way: what may have been taken is found again by its tags."""

    sources: Sequence[ClaimList]
    first: int
    room: int
    replies: tuple[asyncio.Future[Reply], ...]

    def tags(self) -> list[str]:
        numbers = range(self.first, self.first + self.room)
        prefixes = dict.fromkeys(source.tag_prefix for source in self.sources)
        return [f"{prefix}{number:012d}" for prefix in prefixes for number in numbers]


class Sources:
    """The lists of some queues. The queue that was served goes to the end, as with Celery (2.5)."""

    def __init__(self, layout: Layout, queues: Iterable[str], consumer: str) -> None:
        self._layout = layout
        self._consumer = consumer
        self.queues = list(dict.fromkeys(queues))
        self._orders = [self._order(start) for start in range(len(self.queues))]
        self._turn = 0

    def _order(self, start: int) -> list[ClaimList]:
        turned = self.queues[start:] + self.queues[:start]
        return [
            ClaimList(key, queue, tag_prefix(step, self._consumer), claim_suffix(queue))
            for key, queue, step in self._layout.lists(turned)
        ]

    def next(self) -> list[ClaimList]:
        """What the next claim takes from, in this order."""
        return self._orders[self._turn]

    def served(self, queue: str) -> None:
        """A claim has taken from this queue first."""
        if queue in self.queues:  # else the consumer has turned to others meanwhile
            self._turn = (self.queues.index(queue) + 1) % len(self.queues)
