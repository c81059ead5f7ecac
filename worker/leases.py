"""Keeping the leases of what is held, and noticing those that were lost."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from taskq.broker import Consumer
from taskq.errors import OperationalError
from taskq.message import Delivery
from taskq.worker.custody import Custody

logger = logging.getLogger("taskq.worker")


class Leases:
    """Renews every third of a lease.

    After a longer silence (the process was stopped, the loop blocked, the broker away) it asks before anything is
    stored: what was lost meanwhile belongs to another worker.
    """

    def __init__(
        self, consumer: Consumer, custody: Custody, *, lease: float, clock: Callable[[], float]
    ) -> None:
        self._consumer = consumer
        self._custody = custody
        self._lease = lease
        self._clock = clock
        self._renewed = clock()
        self._gone: set[Delivery] = set()

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self.renew()
            except OperationalError as error:
                logger.warning("could not renew the leases of %d deliveries: %s", len(self._custody), error)

    async def renew(self) -> None:
        """Renew all now. Raises OperationalError."""
        asked = self._clock()
        lost = await self._consumer.renew(self._custody.leased())
        self._renewed = asked
        if lost:
            logger.warning("the leases of %d deliveries were lost: other workers have them", len(lost))
            self._gone.update(lost)

    async def lost(self, deliveries: Sequence[Delivery]) -> set[Delivery]:
        """Which of these are no longer ours; asks the broker only if their lease may have run out."""
        if self._clock() - self._renewed > self._lease * 0.9:
            try:
                await self.renew()
            except OperationalError as error:  # the broker decides at settling
                logger.warning("could not check the leases: %s", error)
        if not self._gone:
            return set()
        lost = self._gone.intersection(deliveries)
        self._gone -= lost
        return lost
