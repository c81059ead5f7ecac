"""Receiving: as much as there is room for, judged, and passed on to run now, later, or never."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from taskq import signals
from taskq.errors import OperationalError
from taskq.run.ends import REVOKED, GivenBack, Revoked
from taskq.seams.retry import retry_until_done
from taskq.wire.message import Delivery
from taskq.worker.effects.completer import Completer
from taskq.worker.effects.entries import Links
from taskq.worker.intake.admission import Admission
from taskq.worker.intake.custody import Custody
from taskq.worker.intake.leases import Leases
from taskq.worker.intake.revocations import Revocations, keys_of
from taskq.worker.intake.throttle import Throttle
from taskq.worker.intake.timers import Timers
from taskq.worker.run.job import Job, JobState
from taskq.worker.run.observers import Observers

#: Larger bodies, in bytes, wait in the broker: read, they take many times as much memory here.
MOST_WAITING = 2_000_000

#: The longest sleep until the next eta, in seconds: a wall clock that is set forward is noticed after this.
_MAX_SLEEP = 10.0


@dataclass(frozen=True, slots=True)
class Room:
    """How much is taken.

    Attributes:
        capacity: how many deliveries may be held that are not waiting for an eta.
        max_bytes: no more are taken once the bodies of all that is held come to so much.
        horizon: an eta further away than this, in seconds, waits in the broker.
        later: how many may wait for their eta here.
    """

    capacity: int
    max_bytes: int
    horizon: float
    later: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this worker holds, the leases of that, and what it knows to be revoked."""

    custody: Custody
    leases: Leases
    revocations: Revocations


class Intake:
    """Takes deliveries from the consumer.

    Args:
        links: where they come from.
        completer: where what is not run goes.
        throttle: where jobs go that are due.
        room: how much is taken.
    """

    def __init__(
        self,
        links: Links,
        admission: Admission,
        completer: Completer,
        throttle: Throttle,
        holdings: Holdings,
        *,
        observers: Observers,
        room: Room,
        now: Callable[[], float],
    ) -> None:
        self._broker = links.broker
        self._consumer = links.consumer
        self._admission = admission
        self._completer = completer
        self._throttle = throttle
        self._revocations = holdings.revocations
        self._custody = holdings.custody
        self._leases = holdings.leases
        self._observers = observers
        self.capacity = room.capacity
        self.max_bytes = room.max_bytes
        self._horizon = room.horizon
        self._later_limit = room.later
        self._now = now
        self._later: Timers[Job] = Timers()
        self._alarm: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        #: When something was received for the last time (`time.monotonic`).
        self.received = time.monotonic()

    async def run(self) -> None:
        """Receive until the consumer is closed; raises what kept due jobs from being started."""
        self._running = asyncio.current_task()
        try:
            await self._receive()
        except asyncio.CancelledError:
            if self._failure is not None:
                raise self._failure from None
            raise

    async def _receive(self) -> None:
        """Back-pressure is arithmetic: ask for what there is room for."""
        while True:
            room = self.room
            if room <= 0:
                await self._custody.change()
                continue
            asked = self._leases.clock()
            deliveries = await self._consumer.receive(room, self.max_bytes - self._custody.bytes)
            if not deliveries:
                return
            self.received = time.monotonic()
            await self._admit(await self._leases.without_late(asked, deliveries))

    @property
    def held_bytes(self) -> int:
        """What the bodies of all that is held come to."""
        return self._custody.bytes

    @property
    def room(self) -> int:
        """How many more may be received now. From any thread."""
        if self._custody.bytes >= self.max_bytes:
            return 0
        return self.capacity - (len(self._custody) - self.waiting)

    async def _admit(self, deliveries: Sequence[Delivery]) -> None:
        jobs = []
        for delivery in deliveries:
            judged = self._admission.judge(delivery)
            if isinstance(judged, Job):
                self._custody.take(delivery, judged)
                jobs.append(judged)
            else:
                self._custody.take(delivery, None)
                self._completer.refuse(judged)
        parked = []
        for job in await self._without_revoked(jobs, self._consumer.revoked):
            self._observers.tell("received", (job,))
            if signals.task_received.receivers:
                await signals.task_received.send(job.task, request=job.request)
            until = self._place(job)
            if until is not None:
                parked.append((job, until))
        if parked:
            await self._park(parked)
        self._set_alarm()

    def _place(self, job: Job) -> float | None:
        """Pass a job on, to run now or later here; where there is no room for it, when it should come again."""
        # What waits for its time is to leave room for what could run.
        has_room = (
            self.waiting < self._later_limit
            and 2 * self._custody.bytes <= self.max_bytes
            and job.request.size <= MOST_WAITING
        )
        if job.due:
            if not has_room or job.due - self._now() > self._horizon:
                return job.due
            job.enter(JobState.WAITING)
            self._later.push(job.due, job)
        elif has_room or not self._throttle.limits(job):
            self._throttle.add(job)
        else:
            return self._now() + self._throttle.eta(job)
        return None

    async def _park(self, parked: Sequence[tuple[Job, float]]) -> None:
        """Have the broker keep these. One that was revoked since it was looked at comes back at once."""
        deliveries = [(job.delivery, until) for job, until in parked]
        self._custody.leave([delivery for delivery, _ in deliveries])
        await retry_until_done("park tasks", lambda: self._consumer.park(deliveries), OperationalError)
        self._custody.release([delivery for delivery, _ in deliveries])
        revoked = await self._revoked([job for job, _ in parked])
        if late := [job.request.id for job, _ in parked if self._is_revoked(job, revoked)]:
            await retry_until_done(
                "recall revoked tasks", lambda: self._broker.recall(late), OperationalError
            )

    @property
    def waiting(self) -> int:
        """How many wait for their eta, or for their turn at a rate limit. From any thread."""
        return len(self._later) + len(self._throttle)

    async def _without_revoked(
        self, jobs: Sequence[Job], known: Collection[str] | None = None
    ) -> Sequence[Job]:
        """Those that may run; the revoked ones get their outcome. What is `known` need not be asked for."""
        if not jobs:
            return jobs
        revoked = await self._revoked(jobs) if known is None else known
        kept = [job for job in jobs if not self._is_revoked(job, revoked)]
        for job in jobs if len(kept) < len(jobs) else ():
            if job not in kept:
                self._completer.end(job, Revoked(REVOKED))
        return kept

    async def _revoked(self, jobs: Sequence[Job]) -> Collection[str]:
        """By which of their keys the broker knows some of these to be revoked."""
        keys = [key for job in jobs for key in keys_of(job.request)]
        return await retry_until_done(
            "ask for revoked tasks", lambda: self._broker.revoked(keys), OperationalError
        )

    def _is_revoked(self, job: Job, revoked: Collection[str]) -> bool:
        """By the broker's word, or by a command that came while it was asked."""
        if not revoked and not self._revocations:
            return False
        keys = keys_of(job.request)
        return not set(keys).isdisjoint(revoked) or self._revocations.have(keys)

    # --- remote control -------------------------------------------------------------------------------------

    def resize(self, capacity: int) -> None:
        """Hold up to so many from now on."""
        self.capacity = capacity
        self._custody.wake()

    def scheduled(self) -> list[tuple[float, Job]]:
        """What waits for its eta or its turn, with the time (Unix seconds; 0: as the rate limit allows)."""
        return [*self._later.items(), *((0.0, job) for job in self._throttle.waiting())]

    def withdraw(self, jobs: Collection[Job]) -> set[Job]:
        """Take out those of these that wait here."""
        return self._later.remove(set(jobs)) | self._throttle.withdraw(jobs)

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
            task.add_done_callback(self._started)

    async def _start_due(self, jobs: Sequence[Job]) -> None:
        """They may have been revoked while they waited."""
        for job in await self._without_revoked(jobs):
            self._throttle.add(job)

    def _started(self, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error  # its jobs would be held for ever
            if self._running is not None:
                self._running.cancel()

    def close(self) -> None:
        """Give back what waits for its eta; what is just due goes back when the consumer is closed."""
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._starting:
            task.cancel()
        for job in (*self._later.clear(), *self._throttle.close()):
            self._completer.end(job, GivenBack(began=False))
