"""One run: from a job to its outcome, in named steps."""

import asyncio
import functools
import os
from collections.abc import Callable
from typing import Any

from taskq import signals, states
from taskq.app import TaskQ
from taskq.errors import TaskRevokedError
from taskq.run.outcome import Outcome
from taskq.wire.request import current
from taskq.worker.effects.effects import Effects
from taskq.worker.pools.processes import ProcessLost, ProcessPool
from taskq.worker.pools.threads import ThreadPool
from taskq.worker.process.pulse import PULSE
from taskq.worker.run.drive import CoroutineRun
from taskq.worker.run.job import Job, Place
from taskq.worker.run.limits import Limits, Run
from taskq.worker.run.states import stored_state
from taskq.worker.run.verdict import EXPIRED, TERMINATED, Verdict


class Executor:
    """Runs jobs of one app: coroutines on the loop, plain functions in threads or processes."""

    def __init__(
        self,
        app: TaskQ,
        threads: ThreadPool,
        processes: ProcessPool,
        effects: Effects,
        verdict: Verdict,
        *,
        hostname: str,
        now: Callable[[], float],
    ) -> None:
        self._conf = app.conf
        self._threads = threads
        self._processes = processes
        self._effects = effects
        self._verdict = verdict
        self._hostname = hostname
        self._now = now
        self._pid = os.getpid()

    async def execute(self, job: Job) -> Outcome:
        """Run a job; whatever happens, an outcome comes back."""
        request, task = job.request, job.task
        if request.expires is not None and request.expires.timestamp() < self._now():
            return await self._verdict.revoked(job, EXPIRED)
        if not (self._conf.task_acks_late if task.acks_late is None else task.acks_late):
            job.acknowledged = True  # before it is: whatever happens from here on, it is not given back
            await self._effects.acknowledge(job.delivery)
        request.hostname = self._hostname
        request.record = self._effects.report
        current.set(request)
        try:
            outcome = await self._verdict.succeeded(job, await self._perform(job))
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            if job.handed_back and isinstance(error, asyncio.CancelledError):
                return self._verdict.handed_back(job)
            outcome = await self._ended(job, error)
        request.record = None  # what goes on in the background has no say any more
        if signals.task_postrun.receivers:
            await self._verdict.hooks.around(signals.task_postrun, task, request)
        return outcome

    async def _perform(self, job: Job) -> Any:
        """The part that remote control may end."""
        try:
            if job.terminated is None:  # else it was told before it began
                job.interruptible = True
                await self._before(job)
                value = await self._run(job)
        finally:
            job.interruptible, job.over = False, True
        if job.terminated is not None:
            raise TaskRevokedError(TERMINATED)
        return value

    async def _ended(self, job: Job, error: BaseException) -> Outcome:
        if job.terminated is not None:
            return await self._verdict.revoked(job, TERMINATED)
        if isinstance(error, ProcessLost):
            return await self._verdict.lost(job, error)
        if isinstance(error, asyncio.CancelledError) and job.runner is not None and job.runner.cancelling():
            return await self._verdict.failed(job, TaskRevokedError(TERMINATED))
        # A cancellation by nobody: the task awaited something that was cancelled, or raised this itself.
        return await self._verdict.of(job, error)

    async def _before(self, job: Job) -> None:
        request, task = job.request, job.task
        if signals.task_prerun.receivers:
            await self._verdict.hooks.around(signals.task_prerun, task, request)
        if self._conf.task_track_started if task.track_started is None else task.track_started:
            meta = {"pid": self._pid, "hostname": self._hostname}
            self._effects.record(stored_state(job, states.STARTED, meta))  # stored in order with what follows
        self._verdict.log.started(job)
        await self._verdict.hooks.before_start(task, request)

    async def _run(self, job: Job) -> Any:
        request, task = job.request, job.task
        limits = Limits.of(request, task, self._conf)
        if task.is_async:
            coroutine = task.run(*request.args, **request.kwargs)
            if limits is None:
                return await coroutine
            with PULSE.limited(limits.hard):
                return await limits.bound(CoroutineRun(coroutine, f"{request.name}[{request.id}]"))
        ours = limits is not None and job.place is Place.THREAD
        with PULSE.limited(limits.hard if limits is not None and ours else None):
            run = job.outside = await self._begun(job)
            return await run.done if limits is None else await limits.bound(run)

    async def _begun(self, job: Job) -> Run:
        request, task = job.request, job.task
        if job.place is Place.PROCESS:
            return await self._processes.start(request, task)
        call = functools.partial(task.run, *request.args, **request.kwargs)
        return self._threads.submit(call)
