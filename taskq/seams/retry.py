"""Trying again: the one back-off, and doing something until it works."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

logger = logging.getLogger("taskq.worker")

#: The first and the longest pause between two tries of a broker or store that is down, in seconds.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class Backoff:
    """Pauses between tries of what does not work: each up to twice as long as the one before, with jitter, in seconds.

    Half of a pause is random, so that who failed together does not come back together.
    """

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self._pause = first

    def next(self) -> float:
        """How long to wait before the next try."""
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._pause = min(2 * self._pause, self._longest)
        return pause

    def reset(self) -> None:
        """It worked: the next failure is a first one."""
        self._pause = self._first


class Outage:
    """Whether something cannot be used now: its beginning is a warning, what repeats it is for who looks closer."""

    def __init__(self) -> None:
        self._told = False

    def failed(self, log: logging.Logger, problem: Exception) -> None:
        """It could not be used just now, and is tried again."""
        log.log(logging.DEBUG if self._told else logging.WARNING, "%s; trying again until it works", problem)
        self._told = True

    def over(self) -> None:
        """It works."""
        self._told = False


async def retry_until_done(what: str, act: Callable[[], Awaitable[T]], error: type[Exception]) -> T:
    """Do it until it works: giving up would lose what a task has done. The first failure is a warning."""
    pauses, level = Backoff(), logging.WARNING
    while True:
        try:
            return await act()
        except error as failure:
            logger.log(level, "could not %s, trying again: %s", what, failure)
            level = logging.DEBUG
        await asyncio.sleep(pauses.next())
