"""What the worker holds: every delivery from its receipt until it is settled."""

import asyncio
from collections.abc import Iterable

from taskq.message import Delivery
from taskq.worker.job import Job


class Custody:
    """The deliveries in our hands, each with its job where it could be read."""

    def __init__(self) -> None:
        self._jobs: dict[Delivery, Job | None] = {}
        self._released = asyncio.Event()

    def take(self, delivery: Delivery, job: Job | None) -> None:
        """Begin custody."""
        self._jobs[delivery] = job

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """End custody."""
        for delivery in deliveries:
            self._jobs.pop(delivery, None)
        self._released.set()

    def jobs(self) -> list[Job]:
        """All that can be run, or have been and are not settled yet."""
        return [job for job in self._jobs.values() if job is not None]

    def leased(self) -> list[Delivery]:
        """Those whose lease is to be kept: all but the ones acknowledged before their run. From any thread."""
        return [delivery for delivery, job in list(self._jobs.items()) if job is None or not job.acknowledged]

    def tell_lost(self, deliveries: Iterable[Delivery]) -> None:
        """Let the runs of these know that they may have been given to another worker."""
        for delivery in deliveries:
            job = self._jobs.get(delivery)
            if job is not None:
                job.request.lease_lost = True

    def __len__(self) -> int:
        return len(self._jobs)

    async def change(self) -> None:
        """Wait until some custody ends."""
        self._released.clear()
        await self._released.wait()
