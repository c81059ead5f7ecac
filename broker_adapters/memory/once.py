"""The names of messages that are published a single time (`Message.once`)."""

import threading
from collections.abc import Iterable

from taskq.clock import now
from taskq.seams.broker import ONCE, ONCE_SETTLED


class OnceNames:
    """Names with the time until which they are remembered, the next to be forgotten first. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, float] = {}
        self._settled: dict[str, float] = {}

    def are_new(self, names: Iterable[str | None]) -> list[bool]:
        """Which of these have not been published before (those without a name never were); now they all have."""
        with self._lock:
            time = now()
            drop_past(self._open, time)
            drop_past(self._settled, time)
            return [name is None or self._is_new(name, time) for name in names]

    def _is_new(self, name: str, time: float) -> bool:
        if name in self._open or name in self._settled:
            return False
        self._open[name] = time + ONCE
        return True

    def forget_soon(self, names: Iterable[str]) -> None:
        """The delivery that led to these has been settled."""
        with self._lock:
            until = now() + ONCE_SETTLED
            self._settled.update((name, until) for name in names if self._open.pop(name, None) is not None)


def drop_past(names: dict[str, float], time: float) -> None:
    while names and names[first := next(iter(names))] <= time:
        del names[first]
