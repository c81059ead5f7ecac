"""What the worker holds: every delivery from its receipt until it is settled."""

import asyncio
from collections.abc import Iterable

from taskq.wire.message import Delivery
from taskq.worker.run.job import Job


class Custody:
    """The deliveries in our hands, each with its job where it could be read."""

    def __init__(self) -> None:
        self._jobs: dict[Delivery, Job | None] = {}
        self._leaving: set[Delivery] = set()
        self._changed = asyncio.Event()
        #: Of the bodies of all that is held, inflated where they are read.
        self.bytes = 0

    def take(self, delivery: Delivery, job: Job | None) -> None:
        """Begin custody."""
        self._jobs[delivery] = job
        self.bytes += _size(delivery, job)

    def leave(self, deliveries: Iterable[Delivery]) -> None:
        """The broker is about to be told that these are ours no more: from now on a missing lease is no loss."""
        self._leaving.update(deliveries)

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """End custody."""
        for delivery in deliveries:
            self._leaving.discard(delivery)
            if delivery in self._jobs:
                self.bytes -= _size(delivery, self._jobs.pop(delivery))
        self._changed.set()

    def jobs(self) -> list[Job]:
        """All that can be run, or have been and are not settled yet."""
        return [job for job in self._jobs.values() if job is not None]

    def leased(self) -> list[Delivery]:
        """Those whose lease is to be kept: all but the ones acknowledged before their run. From any thread."""
        return [delivery for delivery, job in list(self._jobs.items()) if job is None or not job.acknowledged]

    def missed(self, lost: Iterable[Delivery]) -> list[Delivery]:
        """Those of these that we still count on: a renewal may cross with what ends a custody. From any thread."""
        expected = set(self.leased()) - self._leaving
        return [delivery for delivery in lost if delivery in expected]

    def tell_lost(self, deliveries: Iterable[Delivery]) -> None:
        """Let the runs of these know that they may have been given to another worker."""
        for delivery in deliveries:
            job = self._jobs.get(delivery)
            if job is not None:
                job.request.lease_lost = True

    def __len__(self) -> int:
        return len(self._jobs)

    async def change(self) -> None:
        """Wait until some custody ends, or `wake` is called."""
        self._changed.clear()
        await self._changed.wait()

    def wake(self) -> None:
        """Have who waits for a change look again."""
        self._changed.set()


def _size(delivery: Delivery, job: Job | None) -> int:
    """Bytes of its body. One that came compressed is held inflated, too, in the values that were read."""
    return max(len(delivery.message.body), 0 if job is None else job.request.size)
