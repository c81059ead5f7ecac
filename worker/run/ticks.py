"""The clock that runs are measured by."""

import asyncio
import time
from collections.abc import Callable


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The loop's clock, as fine as it can be had.

    uvloop counts whole milliseconds, as of the turn of the loop, from the same origin as `time.monotonic`: most
    runs would take 0.0 s, which Flower's histogram does not count at all.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time
