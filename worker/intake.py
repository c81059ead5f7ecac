"""Receiving: as much as there is room for, judged, and passed on to run now, later, or never."""

import asyncio
from collections.abc import Callable, Sequence

from taskq.broker import Broker, Consumer
from taskq.errors import OperationalError
from taskq.message import Delivery
from taskq.worker.admission import Admission
from taskq.worker.custody import Custody
from taskq.worker.insist import insist
from taskq.worker.job import Job
from taskq.worker.outcome import Outcome, Settle
from taskq.worker.runlog import RunLog
from taskq.worker.runner import Runner
from taskq.worker.timers import Timers
from taskq.worker.verdict import REVOKED, Verdict

#: The longest sleep until the next eta, in seconds: a wall clock that is set forward is noticed after this.
_MAX_SLEEP = 10.0


class Intake:
    """Takes deliveries from the consumer.

    Args:
        put: where outcomes go.
        capacity: how many deliveries may be held that are not waiting for an eta.
        horizon: an eta further away than this, in seconds, waits in the broker.
        later: how many may wait for their eta here.
    """

    def __init__(  # noqa: PLR0913 - the place where all parts meet
        self,
        broker: Broker,
        consumer: Consumer,
        admission: Admission,
        verdict: Verdict,
        runner: Runner,
        custody: Custody,
        *,
        put: Callable[[Outcome], None],
        capacity: int,
        horizon: float,
        later: int,
        now: Callable[[], float],
        log: RunLog,
    ) -> None:
        self._broker = broker
        self._consumer = consumer
        self._admission = admission
        self._verdict = verdict
        self._runner = runner
        self._custody = custody
        self._put = put
        self._capacity = capacity
        self._horizon = horizon
        self._later_limit = later
        self._now = now
        self._log = log
        self._later: Timers[Job] = Timers()
        self._alarm: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Receive until the consumer is closed. Back-pressure is arithmetic: ask for what there is room for."""
        while True:
            room = self._capacity - (len(self._custody) - len(self._later))
            if room <= 0:
                await self._custody.change()
                continue
            deliveries = await self._consumer.receive(room)
            if not deliveries:
                return
            await self._admit(deliveries)

    async def _admit(self, deliveries: Sequence[Delivery]) -> None:
        jobs = []
        for delivery in deliveries:
            judged = self._admission.judge(delivery)
            if isinstance(judged, Job):
                self._custody.take(delivery, judged)
                jobs.append(judged)
            else:
                self._custody.take(delivery, None)
                self._put(await self._verdict.refused(judged))
        parked = []
        for job in await self._without_revoked(jobs):
            self._log.received(job)
            if not job.due:
                self._runner.add(job)
            elif job.due - self._now() <= self._horizon and len(self._later) < self._later_limit:
                self._later.push(job.due, job)
            else:
                parked.append((job.delivery, job.due))
        if parked:
            await insist("park tasks", lambda: self._consumer.park(parked), OperationalError)
            self._custody.release([delivery for delivery, _ in parked])
        self._set_alarm()

    async def _without_revoked(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those that may run; the revoked ones get their outcome."""
        if not jobs:
            return jobs
        ids = [job.request.id for job in jobs]
        revoked = await insist("ask for revoked tasks", lambda: self._broker.revoked(ids), OperationalError)
        if not revoked:
            return jobs
        for job in jobs:
            if job.request.id in revoked:
                self._put(await self._verdict.revoked(job, REVOKED))
        return [job for job in jobs if job.request.id not in revoked]

    # --- later ----------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        """One timer, for the earliest."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = self._later.next_due
        if due is not None:
            wait = min(max(0.0, due - self._now()), _MAX_SLEEP)
            self._alarm = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        """Never early: a timer that fires before the wall clock says so is set again."""
        due = self._later.pop_due(self._now())
        self._set_alarm()
        if due:
            task = asyncio.get_running_loop().create_task(self._start_due(due))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start_due(self, jobs: Sequence[Job]) -> None:
        """They may have been revoked while they waited."""
        for job in await self._without_revoked(jobs):
            self._runner.add(job)

    def close(self) -> None:
        """Give back what waits for its eta; what is just due goes back when the consumer is closed."""
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._starting:
            task.cancel()
        for job in self._later.clear():
            self._put(Outcome(job.delivery, settle=Settle.REQUEUE))
