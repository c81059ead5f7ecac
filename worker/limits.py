"""Time limits of one run, in seconds."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

from taskq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from taskq.request import Request
from taskq.settings import Settings
from taskq.task import Task
from taskq.worker.drive import Interruptible
from taskq.worker.threads import ThreadPool, ThreadRun

#: A coroutine that swallows its hard limit is ended again so often, in seconds.
_INSIST = 1.0


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

    async def bound(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await a coroutine within the limits.

        Raises:
            SoftTimeLimitExceeded: the coroutine let it through.
            TimeLimitExceeded: the hard limit passed.
        """
        loop = asyncio.get_running_loop()
        run = Interruptible(coroutine)
        ended: list[TimeLimitExceeded] = []
        timers: list[asyncio.TimerHandle] = []

        def end() -> None:
            ended[:] = [TimeLimitExceeded(self.hard)]
            run.interrupt(ended[0])
            timers.append(loop.call_later(_INSIST, end))

        if self.soft is not None:
            timers.append(loop.call_later(self.soft, lambda: run.interrupt(SoftTimeLimitExceeded())))
        if self.hard is not None:
            timers.append(loop.call_later(self.hard, end))
        try:
            value = await run.run()
        finally:
            for timer in timers:
                timer.cancel()
        if ended:
            raise ended[0]
        return value

    async def bound_thread(self, run: ThreadRun, threads: ThreadPool) -> Any:
        """Wait for a thread's run within the limits. A thread that does not end is left behind and replaced.

        Raises:
            SoftTimeLimitExceeded: the function let it through.
            TimeLimitExceeded: the hard limit passed.
        """
        spent = 0.0
        if self.soft is not None and (self.hard is None or self.soft < self.hard):
            if await _ended(run, self.soft):
                return run.done.result()
            run.interrupt(SoftTimeLimitExceeded)
            spent = self.soft
        if not await _ended(run, None if self.hard is None else self.hard - spent):
            run.interrupt(TimeLimitExceeded)
            threads.abandon(run)
            raise TimeLimitExceeded(self.hard)
        return run.done.result()


async def _ended(run: ThreadRun, timeout: float | None) -> bool:  # noqa: ASYNC109 - a limit, not a deadline of ours
    done, _ = await asyncio.wait([run.done], timeout=timeout)
    return bool(done)
