"""Time, as a parameter: what decides by a clock is handed one."""

import threading
import time
from collections.abc import Callable

Now = Callable[[], float]

_source: Now = time.time


def now() -> float:
    """Wall clock in Unix seconds. Due times and leases use it, because other machines must agree on them."""
    return _source()


def set_source(source: Now) -> Now:
    """Let `now` tell another clock's time, for tests; returns the one before."""
    global _source
    before, _source = _source, source
    return before


class LamportClock:
    """A logical clock: orders events and control messages of all processes (wire-format.md 9).

    A counter that never falls behind any it has heard of. May be used from any thread.
    """

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def forward(self) -> int:
        """Before each message: the next value."""
        with self._lock:
            self.value += 1
            return self.value

    def adjust(self, other: object) -> int:
        """At each receipt: ahead of both. What is no number is passed over."""
        with self._lock:
            if type(other) is int and other < 2**62:
                self.value = max(self.value, other) + 1
            return self.value
