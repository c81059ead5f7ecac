"""Time, as a parameter: what decides by the clock is handed one."""

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
