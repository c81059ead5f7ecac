"""Trying until it works."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger("taskq.worker")

#: The longest pause between two tries of a broker or store that is down, in seconds.
MAX_PAUSE = 5.0


async def retry_until_done(what: str, act: Callable[[], Awaitable[T]], error: type[Exception]) -> T:
    """Do it until it works: giving up would lose what a task has done. Pauses grow, with jitter."""
    pause = 0.1
    while True:
        try:
            return await act()
        except error as failure:
            logger.warning("could not %s, trying again: %s", what, failure)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, MAX_PAUSE)
