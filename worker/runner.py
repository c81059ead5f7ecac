"""Which jobs run now: at most `concurrency` of them, in the order they became ready."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from taskq.worker.executor import Executor
from taskq.worker.job import Job
from taskq.worker.outcome import Outcome, Settle

logger = logging.getLogger("taskq.worker")


class Runner:
    """Starts an asyncio task per job, which gives every run a context of its own."""

    def __init__(self, executor: Executor, put: Callable[[Outcome], None], *, concurrency: int) -> None:
        self._executor = executor
        self._put = put
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Job] = deque()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.running: set[Job] = set()

    def add(self, job: Job) -> None:
        """Run a job as soon as there is room."""
        if self._closed:
            self._hand_back(job)
            return
        self._ready.append(job)
        self._fill()

    def _fill(self) -> None:
        while self._ready and len(self.running) < self._concurrency:
            job = self._ready.popleft()
            self.running.add(job)
            job.started = self._loop.time()
            job.runner = self._loop.create_task(self._run(job))
            self._idle.clear()

    async def _run(self, job: Job) -> None:
        try:
            outcome = await self._executor.execute(job)
        except BaseException:  # a bug of ours or a cancellation from outside: the message must not be lost
            logger.exception("could not run %s[%s], giving it back", job.request.task, job.request.id)
            outcome = Outcome(job.delivery, settle=Settle.DONE if job.acknowledged else Settle.REQUEUE)
        self._put(outcome)
        self.running.discard(job)
        self._fill()
        if not self.running:
            self._idle.set()

    def _hand_back(self, job: Job) -> None:
        self._put(Outcome(job.delivery, settle=Settle.REQUEUE))

    def close(self) -> int:
        """Start no more: what was ready is given back at once. Tells how many run on."""
        self._closed = True
        while self._ready:
            self._hand_back(self._ready.popleft())
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
