"""Waiting for something another thread or process does, where no event tells of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeVar, overload

T = TypeVar("T")

#: Seconds in which even a busy machine starts a process; only what fails waits for so long.
LONG_ENOUGH = 60.0


@overload
async def eventually(
    probe: Callable[[], Awaitable[T]], *, within: float = LONG_ENOUGH, every: float = 0.01
) -> T: ...
@overload
async def eventually(probe: Callable[[], T], *, within: float = LONG_ENOUGH, every: float = 0.01) -> T: ...
async def eventually(
    probe: Callable[[], T | Awaitable[T]], *, within: float = LONG_ENOUGH, every: float = 0.01
) -> T:
    """Call `probe` until what it returns is true, and return that; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = probe()
        found: T = await value if isawaitable(value) else value
        if found:
            return found
        assert time.monotonic() < deadline, (
            f"{probe} did not hold within {within} s, the last value was {found!r}"
        )
        await asyncio.sleep(every)


def eventually_sync(probe: Callable[[], T], *, within: float = LONG_ENOUGH, every: float = 0.01) -> T:
    """The same for tests without a loop."""
    deadline = time.monotonic() + within
    while not (found := probe()):
        assert time.monotonic() < deadline, (
            f"{probe} did not hold within {within} s, the last value was {found!r}"
        )
        time.sleep(every)
    return found
