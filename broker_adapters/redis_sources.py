"""The lists a consumer claims from, and whose turn it is to be first."""

from collections.abc import Iterable
from typing import NamedTuple

from taskq.broker_adapters.redis_claims import claim_suffix, tag_prefix
from taskq.broker_adapters.redis_layout import Layout


class Source(NamedTuple):
    """One list we claim from."""

    key: str
    queue: str
    tag_prefix: str
    suffix: str


class Sources:
    """The lists of some queues. The queue that was served goes to the end, as with Celery (2.5)."""

    def __init__(self, layout: Layout, queues: Iterable[str], consumer: str) -> None:
        self._layout = layout
        self._consumer = consumer
        self.queues = list(dict.fromkeys(queues))
        self._orders = [self._order(start) for start in range(len(self.queues))]
        self._turn = 0

    def _order(self, start: int) -> list[Source]:
        turned = self.queues[start:] + self.queues[:start]
        return [
            Source(key, queue, tag_prefix(step, self._consumer), claim_suffix(queue))
            for key, queue, step in self._layout.lists(turned)
        ]

    def next(self) -> list[Source]:
        """What the next claim takes from, in this order."""
        return self._orders[self._turn]

    def served(self, queue: str) -> None:
        """A claim has taken from this queue first."""
        if queue in self.queues:  # else the consumer has turned to others meanwhile
            self._turn = (self.queues.index(queue) + 1) % len(self.queues)
