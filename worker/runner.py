"""Which jobs run now: at most `concurrency` of them, in the order they became ready."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from taskq.broker import Consumer
from taskq.worker.executor import Executor
from taskq.worker.job import Job
from taskq.worker.outcome import Outcome, Settle

logger = logging.getLogger("taskq.worker")


class Runner:
    """Starts an asyncio task per job, which gives every run a context of its own.

    A job whose message saw a worker die is blamed for the next death before it runs; one that was blamed already
    runs alone among its kind, so that of those in the hands of a dying worker only the one that kills is blamed
    again and again, and ends in the dead letters.
    """

    def __init__(
        self,
        executor: Executor,
        consumer: Consumer,
        put: Callable[[Outcome], None],
        *,
        concurrency: int,
    ) -> None:
        self._executor = executor
        self._consumer = consumer
        self._put = put
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Job] = deque()
        self._accused: deque[Job] = deque()
        self._trial: Job | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.running: set[Job] = set()

    def add(self, job: Job) -> None:
        """Run a job as soon as there is room."""
        if self._closed:
            self._hand_back(job)
            return
        (self._accused if job.delivery.deaths > 1 else self._ready).append(job)
        self._fill()

    def _fill(self) -> None:
        while len(self.running) < self._concurrency:
            if self._accused and self._trial is None:
                job = self._trial = self._accused.popleft()
            elif self._ready:
                job = self._ready.popleft()
            else:
                return
            self.running.add(job)
            job.started = self._loop.time()
            job.runner = self._loop.create_task(self._run(job))
            self._idle.clear()

    async def _run(self, job: Job) -> None:
        try:
            if job.delivery.deaths:
                await self._consumer.blame(job.delivery)
            outcome = await self._executor.execute(job)
            if job.delivery.deaths and outcome.settle is Settle.REQUEUE:
                await self._consumer.blame(job.delivery, -1)
        except BaseException:  # a bug of ours or a cancellation from outside: the message must not be lost
            logger.exception("could not run %s[%s], giving it back", job.request.task, job.request.id)
            outcome = Outcome(job.delivery, settle=Settle.DONE if job.acknowledged else Settle.REQUEUE)
        self._put(outcome)
        self.running.discard(job)
        if job is self._trial:
            self._trial = None
        self._fill()
        if not self.running:
            self._idle.set()

    def _hand_back(self, job: Job) -> None:
        self._put(Outcome(job.delivery, settle=Settle.REQUEUE))

    def close(self) -> int:
        """Start no more: what was ready is given back at once. Tells how many run on."""
        self._closed = True
        for waiting in (self._ready, self._accused):
            while waiting:
                self._hand_back(waiting.popleft())
        return len(self.running)

    async def wait(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    def cancel(self) -> None:
        """End what still runs and give it back."""
        for job in list(self.running):
            job.handed_back = True
            if job.runner is not None:
                job.runner.cancel()
