"""The waiting messages of the memory broker, in the order of their delivery."""

from collections import deque


class Waiter:
    """One message in the hub. It stays the same object through redelivery, whoever holds it.

    `claims` counts how often it was handed out, so that an old delivery of it can be told from the present one.
    """

    __slots__ = ("claims", "deaths", "order", "priority", "queue", "raw", "redelivered")

    def __init__(self, order: int, queue: str, priority: int, raw: bytes) -> None:
        self.order = order
        self.queue = queue
        self.priority = priority
        self.raw = raw
        self.redelivered = False
        self.deaths = 0
        self.claims = 0


#: An entry, and which of its claims is meant.
Tag = tuple[Waiter, int]


class Line:
    """The waiting messages of one queue: one deque per priority, the larger number first."""

    __slots__ = ("_levels", "_order")

    def __init__(self) -> None:
        self._levels: dict[int, deque[Waiter]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def append(self, entry: Waiter) -> None:
        self._level(entry.priority).append(entry)

    def put_back(self, entry: Waiter) -> None:
        """To the place it was taken from: before those that were published later."""
        level = self._level(entry.priority)
        later: list[Waiter] = []
        while level and level[0].order < entry.order:
            later.append(level.popleft())
        level.appendleft(entry)
        level.extendleft(reversed(later))

    def take(self, limit: int, max_bytes: int, into: list[Waiter]) -> int:
        """Take the first, up to `limit` and none more once they come to `max_bytes`. Returns their bytes."""
        size = 0
        for priority in self._order:
            level = self._levels[priority]
            while level and limit > 0 and size < max_bytes:
                entry = level.popleft()
                into.append(entry)
                limit -= 1
                size += len(entry.raw)
        return size

    def clear(self) -> None:
        self._levels.clear()
        self._order.clear()

    def _level(self, priority: int) -> deque[Waiter]:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            self._order = sorted(self._levels, reverse=True)
        return level
