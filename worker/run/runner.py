"""Which jobs run now: at most `concurrency` of them, in the order they became ready."""

import asyncio
import contextvars
import logging
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from taskq import signals
from taskq.errors import OperationalError, Reject, TaskRevokedError
from taskq.run.ends import EXPIRED, TERMINATED, Broken, End, GivenBack, Lost, Raised, Revoked
from taskq.run.outcome import Outcome, Settle
from taskq.seams.broker import Consumer
from taskq.seams.retry import retry_until_done
from taskq.worker.effects.completer import Completer
from taskq.worker.intake.leases import Leases
from taskq.worker.run.executor import Executor
from taskq.worker.run.job import Job, JobState, Place
from taskq.worker.run.ticks import clock_of

logger = logging.getLogger("taskq.worker")


#: A run that is to be ended is told so again after this, in seconds.
INSIST = 1.0


class Runner:
    """Starts an asyncio task per job, which gives every run a context of its own.

    A job whose message saw a worker die is blamed for the next death before it runs; one that was blamed already
    runs alone among its kind, so that of those in the hands of a dying worker only the one that kills is blamed
    again and again, and ends in the dead letters.

    Args:
        completer: where outcomes go.
        consumer: the one that made the deliveries.
        concurrency: how many may run at the same time.
        slots: how many of them may be in threads and in processes; more wait aside until there is room.
        leases: asked before anything begins, where they may have run out.
    """

    def __init__(
        self,
        executor: Executor,
        consumer: Consumer,
        completer: Completer,
        leases: Leases,
        *,
        concurrency: int,
        slots: Mapping[Place, int],
    ) -> None:
        self._executor = executor
        self._consumer = consumer
        self._completer = completer
        self._leases = leases
        self._asking: asyncio.Task[None] | None = None
        self._concurrency = concurrency
        self._free = dict(slots)
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        # Each run begins with a copy of this, not of what the run before it has set.
        self._context = contextvars.copy_context()
        self._ready: deque[Job] = deque()
        self._aside: dict[Place, deque[Job]] = {place: deque() for place in slots}
        self._accused: deque[Job] = deque()
        self._trial: Job | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.running: set[Job] = set()
        #: How many runs of each task have begun.
        self.started: Counter[str] = Counter()

    def job_of(self, task: "asyncio.Task[Any] | None") -> Job | None:
        """The job that an asyncio task runs, if it does. From any thread."""
        if task is None:
            return None
        name = task.get_name()  # one with time limits has a task of its own, of this name
        return next(
            (
                j
                for j in list(self.running)
                if j.runner is task or f"{j.request.name}[{j.request.id}]" == name
            ),
            None,
        )

    def add(self, job: Job) -> None:
        """Run a job as soon as there is room."""
        if self._closed:
            self._completer.end(job, GivenBack(began=False))
            return
        job.enter(JobState.READY)
        (self._accused if job.delivery.deaths > 1 else self._ready).append(job)
        self._fill()

    # --- starting -------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        if self._asking is not None or len(self.running) >= self._concurrency:
            return
        if (self._ready or self._accused) and self._leases.stale:
            self._asking = self._loop.create_task(self._ask())
            return
        while len(self.running) < self._concurrency and (job := self._next()) is not None:
            if job.request.lease_lost:  # another worker has it
                self._let_go(job)
                continue
            self.running.add(job)
            self.started[job.request.task] += 1
            if job.place is not Place.LOOP:
                self._free[job.place] -= 1
            job.started = self._clock()
            job.runner = self._loop.create_task(self._run(job), context=self._context.copy())
            self._idle.clear()

    async def _ask(self) -> None:
        try:
            await self._leases.check()
        finally:
            self._asking = None
        self._fill()

    def _let_go(self, job: Job) -> None:
        if job is self._trial:
            self._trial = None
        self._completer.put(Outcome(job.delivery, settle=Settle.DONE))

    def _next(self) -> Job | None:
        if self._accused and self._trial is None and self._has_room_for(self._accused[0]):
            self._trial = self._accused.popleft()
            return self._trial
        while self._ready:
            job = self._ready.popleft()
            if self._has_room_for(job):
                return job
            self._aside[job.place].append(job)
        return None

    def _has_room_for(self, job: Job) -> bool:
        return job.place is Place.LOOP or self._free[job.place] > 0

    # --- running --------------------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        try:
            if job.delivery.deaths:
                end = await self._execute_accused(job)
            else:
                end = await self._executor.execute(job)
                if isinstance(end, Lost) and not job.acknowledged:
                    await self._strike(job, 1)
        except asyncio.CancelledError:  # at an await of ours, before the task's own code or after it
            end = job.told or GivenBack()
        except Exception as error:  # noqa: BLE001 - a bug of ours: it is told as the run's end
            end = Broken(error)
        if job not in self.running:  # it was given up
            return
        outcome = self._decided(job, end)
        if outcome.calls:
            await self._completer.conclude(outcome)
        else:
            self._completer.put(outcome)
        self._leave(job)

    def _decided(self, job: Job, end: End) -> Outcome:
        """What comes of it, and who is told at the very end."""
        job.ended = self._clock()
        outcome = self._completer.decided(job, end)
        if signals.task_postrun.receivers and not _never_ran(end):
            outcome.postrun = job
        return outcome

    async def _execute_accused(self, job: Job) -> End:
        await self._strike(job, 1)
        end = await self._executor.execute(job)
        if _goes_back(end) and not job.acknowledged:
            await self._strike(job, -1)
        return end

    async def _strike(self, job: Job, count: int) -> None:
        await retry_until_done(
            "blame a task", lambda: self._consumer.strike(job.delivery, count), OperationalError
        )

    def _leave(self, job: Job) -> None:
        """There is room for another."""
        if job not in self.running:  # it was given up
            return
        self.running.discard(job)
        if job.place is not Place.LOOP:
            self._free[job.place] += 1
            if aside := self._aside[job.place]:
                self._ready.appendleft(aside.popleft())
        if job is self._trial:
            self._trial = None
        self._fill()
        if not self.running:
            self._idle.set()

    # --- remote control -------------------------------------------------------------------------------------

    def withdraw(self, jobs: Iterable[Job]) -> set[Job]:
        """Take out those of these that have not begun."""
        places = (self._ready, *self._aside.values(), self._accused)
        found = set(jobs).intersection([job for place in places for job in place])
        if found:
            for waiting in places:
                kept = [job for job in waiting if job not in found]
                waiting.clear()
                waiting.extend(kept)
        return found

    def terminate(self, job: Job, signum: int) -> None:
        """End a run as revoked. It is told so again each second, until it ends."""
        if job.state is JobState.ENDED or job.told is not None:
            return
        job.told = Revoked(TERMINATED, signum)
        self._interrupt(job, 1)

    def _interrupt(self, job: Job, turn: int) -> None:
        if job.state is JobState.ENDED:
            return
        if job.state is JobState.RUNNING and job.runner is not None:
            if job.outside is None:
                job.runner.cancel()
            elif turn == 1:
                job.outside.interrupt(TaskRevokedError)
            else:
                logger.warning("%s[%s] goes on: left behind", job.request.task, job.request.id)
                job.outside.abandon()
                return
        self._loop.call_later(INSIST, self._interrupt, job, turn + 1)

    @property
    def concurrency(self) -> int:
        """How many may run at the same time."""
        return self._concurrency

    @property
    def is_full(self) -> bool:
        """Whether a job waits for no more than one of these."""
        return bool(self._ready) and len(self.running) >= self._concurrency

    def resize(self, concurrency: int) -> None:
        """So many may run from now on; those that run go on."""
        self._concurrency = concurrency
        self._fill()

    # --- stopping -------------------------------------------------------------------------------------------

    def close(self) -> int:
        """Start no more: what was ready is given back at once. Tells how many run on."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
        for waiting in (*self._aside.values(), self._ready, self._accused):
            while waiting:
                self._completer.end(waiting.popleft(), GivenBack(began=False))
        return len(self.running)

    async def wait(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    def cancel(self) -> None:
        """End what still runs and give it back."""
        for job in list(self.running):
            if job.state is not JobState.ENDED:
                job.told = job.told or GivenBack()
            if job.runner is not None:
                job.runner.cancel()

    def give_up(self) -> None:
        """Give back what does not end: its coroutine swallows its cancellation."""
        for job in list(self.running):
            logger.error("%s[%s] does not end when cancelled, given back", job.request.task, job.request.id)
            if job.state is not JobState.ENDED:  # else its outcome is being carried out
                job.told = GivenBack()
                self._completer.put(self._decided(job, job.told))
            self._leave(job)


def _never_ran(end: End) -> bool:
    """Whether the task's own code has not begun, or was cut short to be run elsewhere."""
    return isinstance(end, GivenBack) or (isinstance(end, Revoked) and end.why == EXPIRED)


def _goes_back(end: End) -> bool:
    """Whether the message goes back to its queue in good order."""
    return isinstance(end, GivenBack) or (
        isinstance(end, Raised) and isinstance(end.error, Reject) and end.error.requeue
    )
