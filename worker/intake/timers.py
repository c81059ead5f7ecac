"""A heap of things due later. Knows no clock: the caller brings `now`."""

import heapq
from collections.abc import Collection
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Timers(Generic[T]):
    """Things by the time they are due; those due at the same time come out as they went in."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()

    def push(self, due: float, item: T) -> None:
        """Keep an item until `due`."""
        heapq.heappush(self._heap, (due, next(self._order), item))

    def pop_due(self, now: float) -> list[T]:
        """Take out all that is due, the earliest first."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def items(self) -> list[tuple[float, T]]:
        """What is kept, with its time, the earliest first."""
        return [(due, item) for due, _, item in sorted(self._heap, key=lambda entry: entry[:2])]

    def remove(self, items: Collection[T]) -> set[T]:
        """Take out those of these that are here."""
        found = {item for _, _, item in self._heap if item in items}
        if found:
            self._heap = [entry for entry in self._heap if entry[2] not in found]
            heapq.heapify(self._heap)
        return found

    def clear(self) -> list[T]:
        """Take out everything, the earliest first."""
        items = [item for _, item in self.items()]
        self._heap.clear()
        return items

    @property
    def next_due(self) -> float | None:
        """When the next item is due, None if there is none."""
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._heap)
