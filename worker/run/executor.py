"""One run: from a job to how it ended, in named steps."""

import functools
import os
import traceback
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from taskq import signals, states
from taskq.app import TaskQ
from taskq.errors import Ignore, Reject, TaskRevokedError
from taskq.run.ends import EXPIRED, TERMINATED, End, Failed, Lost, Raised, Returned, Revoked
from taskq.run.hooks import Hooks
from taskq.run.stored import state_of
from taskq.task import Task
from taskq.wire.request import current
from taskq.worker.effects.completer import Completer
from taskq.worker.pools.carried import Carried
from taskq.worker.pools.child_protocol import RemoteTraceback
from taskq.worker.pools.processes import ProcessLost, ProcessPool
from taskq.worker.pools.threads import ThreadPool
from taskq.worker.process.pulse import PULSE
from taskq.worker.run.drive import CoroutineRun
from taskq.worker.run.job import Job, JobState, Place
from taskq.worker.run.limits import Limits, Run
from taskq.worker.run.observers import Observers


@dataclass(frozen=True, slots=True)
class Pools:
    """Where plain functions run."""

    threads: ThreadPool
    processes: ProcessPool


class Executor:
    """Runs jobs of one app: coroutines on the loop, plain functions in threads or processes."""

    def __init__(
        self,
        app: TaskQ,
        pools: Pools,
        completer: Completer,
        hooks: Hooks,
        observers: Observers,
        *,
        hostname: str,
        now: Callable[[], float],
    ) -> None:
        self._conf = app.conf
        self._pools = pools
        self._completer = completer
        self._hooks = hooks
        self._observers = observers
        self._hostname = hostname
        self._now = now
        self._pid = os.getpid()

    async def execute(self, job: Job) -> End:
        """Run a job; however it ends is told, not raised."""
        request, task = job.request, job.task
        if request.expires is not None and request.expires.timestamp() < self._now():
            return Revoked(EXPIRED)
        if not (self._conf.task_acks_late if task.acks_late is None else task.acks_late):
            job.acknowledged = True  # before it is: whatever happens from here on, it is not given back
            await self._completer.acknowledge(job.delivery)
        request.hostname = self._hostname
        request.record = self._completer.report
        current.set(request)
        return job.told or await self._perform(job)

    async def _perform(self, job: Job) -> End:
        """The part that remote control may end."""
        job.enter(JobState.RUNNING)
        try:
            await self._before(job)
            value = await self._run(job)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is how it ended
            return _ended(job, error.error if isinstance(error, Carried) else error)
        finally:
            job.request.record = None  # what goes on in the background has no say any more
            if job.state is JobState.RUNNING:  # else it was given up
                job.enter(JobState.ENDED)
        return job.told if isinstance(job.told, Revoked) else Returned(value)

    async def _before(self, job: Job) -> None:
        request, task = job.request, job.task
        if signals.task_prerun.receivers:
            await self._hooks.around(signals.task_prerun, task, request)
        if self._conf.task_track_started if task.track_started is None else task.track_started:
            meta = {"pid": self._pid, "hostname": self._hostname}
            # Stored in order with what follows.
            self._completer.record(state_of(self._conf, request, states.STARTED, meta, now=self._now()))
        self._observers.tell("started", (job,))
        if type(task) is not Task:
            await self._hooks.before_start(task, request)

    async def _run(self, job: Job) -> Any:
        request, task = job.request, job.task
        limits = Limits.of(request, task, self._conf)
        if task.is_async:
            coroutine = task.run(*request.args, **request.kwargs)
            return await (coroutine if limits is None else self._bound(job, coroutine, limits))
        ours = limits is not None and job.place is Place.THREAD
        with PULSE.limited(limits.hard if limits is not None and ours else None):
            run = job.outside = await self._begun(job)
            value = await (run.done if limits is None else limits.bound(run))
        if not isawaitable(value):
            return value
        job.outside = None  # a coroutine function behind a plain decorator: it belongs on the loop
        return await (value if limits is None else self._bound(job, value, limits))

    async def _bound(self, job: Job, coroutine: Any, limits: Limits) -> Any:
        with PULSE.limited(limits.hard):
            return await limits.bound(CoroutineRun(coroutine, f"{job.request.name}[{job.request.id}]"))

    async def _begun(self, job: Job) -> Run:
        request, task = job.request, job.task
        if job.place is Place.PROCESS:
            return await self._pools.processes.start(request, task)
        call = functools.partial(task.run, *request.args, **request.kwargs)
        return self._pools.threads.submit(call)


def _ended(job: Job, error: BaseException) -> End:
    """How a run ended that raised."""
    told = job.told
    if told is not None and (isinstance(told, Revoked) or isinstance(error, CancelledError)):
        return told
    if isinstance(error, ProcessLost):
        return Lost(error)
    if isinstance(error, CancelledError) and job.runner is not None and job.runner.cancelling():
        return Failed(TaskRevokedError(TERMINATED))
    # Any other cancellation is by nobody: the task awaited something that was cancelled, or raised this itself.
    if isinstance(error, Ignore | Reject):
        return Raised(error)
    error = from_user_code(error)
    return Raised(error, as_text(error))


def from_user_code(error: BaseException) -> BaseException:
    """The error with its traceback from the user's code on: our own frames at its top say nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("taskq.worker."):
        trace = trace.tb_next
    return error.with_traceback(trace or error.__traceback__)


def as_text(error: BaseException) -> str:
    """Its traceback, as Python prints it: there where it was raised."""
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.text
    return "".join(traceback.format_exception(error))
