"""Time limits of one run, in seconds."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Protocol, Self

from taskq.config.settings import Settings
from taskq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from taskq.task import Task
from taskq.wire.request import Request

logger = logging.getLogger("taskq.worker")

#: How long a run that was ended by its hard limit may take to clean up, in seconds.
PATIENCE = 0.5


class Run(Protocol):
    """A run under way: a coroutine's or a thread's."""

    @property
    def done(self) -> "asyncio.Future[Any]":
        """Ends with its value or exception."""
        ...

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` inside it."""
        ...

    def abandon(self) -> None:
        """Wait for it no longer."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`soft` raises SoftTimeLimitExceeded inside the run, which may catch it; `hard` ends the run."""

    hard: float | None
    soft: float | None

    @classmethod
    def of(cls, request: Request, task: Task[Any, Any, Any], conf: Settings) -> Self | None:
        """The call's limits, else the task's, else the settings'; None without any (nearly always)."""
        hard, soft = request.timelimit
        if hard is None:
            hard = conf.task_time_limit if task.time_limit is None else task.time_limit
        if soft is None:
            soft = conf.task_soft_time_limit if task.soft_time_limit is None else task.soft_time_limit
        return None if hard is None and soft is None else cls(hard, soft)

    async def bound(self, run: "Run") -> Any:
        """Wait for a run within the limits. One that does not heed the hard limit is left behind.

        Raises:
            SoftTimeLimitExceeded: the run let it through.
            TimeLimitExceeded: the hard limit passed.
        """
        spent = 0.0
        if self.soft is not None and (self.hard is None or self.soft < self.hard):
            if await _ended(run, self.soft):
                return run.done.result()
            run.interrupt(SoftTimeLimitExceeded)
            spent = self.soft
        if await _ended(run, None if self.hard is None else self.hard - spent):
            return run.done.result()
        run.interrupt(TimeLimitExceeded)
        if await _ended(run, PATIENCE):
            _ = run.done.cancelled() or run.done.exception()  # looked at, or asyncio complains
        else:
            logger.warning(
                "a run that was ended by its hard time limit of %s s goes on: left behind", self.hard
            )
            run.abandon()
        raise TimeLimitExceeded(self.hard)


async def _ended(run: "Run", timeout: float | None) -> bool:  # noqa: ASYNC109 - a limit, not a deadline of ours
    """Whether it ends in time. Cancelled from outside, it is, too, and may end in its own way; at the second time not."""
    try:
        done, _ = await asyncio.wait([run.done], timeout=timeout)
    except asyncio.CancelledError:
        run.done.cancel()
        try:
            await asyncio.wait([run.done])
        except asyncio.CancelledError:
            run.abandon()
            raise
        return True
    return bool(done)
