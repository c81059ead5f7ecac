"""Keeping the leases of what is held, and noticing those that were lost."""

import logging
from collections.abc import Callable, Sequence

from taskq.errors import OperationalError
from taskq.seams.broker import Consumer
from taskq.wire.message import Delivery
from taskq.worker.intake.custody import Custody

logger = logging.getLogger("taskq.worker")


class Leases:
    """What is known of the leases. They are renewed by the watchdog's thread, which tells it so.

    After a longer silence (the process was stopped, the broker away) it asks before anything is stored: what was
    lost meanwhile belongs to another worker.
    """

    def __init__(
        self, consumer: Consumer, custody: Custody, *, lease: float, clock: Callable[[], float]
    ) -> None:
        self._consumer = consumer
        self._custody = custody
        self._clock = clock
        self._renewed = clock()
        self._gone: set[Delivery] = set()
        self.lease = lease
        #: How often they were renewed, and how many were lost, since the start.
        self.renewals = 0
        self.losses = 0

    def held(self) -> list[Delivery]:
        """What is to be renewed. May be called from any thread."""
        return self._custody.leased()

    def renewed(self, asked: float, lost: Sequence[Delivery]) -> None:
        """All were renewed, as of `asked` (on our clock), but for those that were lost. May come from any thread."""
        self._renewed = max(self._renewed, asked)
        self.renewals += 1
        if lost and (lost := self._custody.missed(lost)):
            self.losses += len(lost)
            logger.warning("the leases of %d deliveries were lost: other workers have them", len(lost))
            self._gone.update(lost)
            self._custody.tell_lost(lost)

    @property
    def age(self) -> float:
        """Seconds since the last renewal."""
        return self._clock() - self._renewed

    async def lost(self, deliveries: Sequence[Delivery]) -> set[Delivery]:
        """Which of these are no longer ours; asks the broker only if their lease may have run out."""
        asked = self._clock()
        if asked - self._renewed > self.lease * 0.9:
            try:
                self.renewed(asked, await self._consumer.renew(self.held()))
            except OperationalError as error:  # the broker decides at settling
                logger.warning("could not check the leases: %s", error)
        if not self._gone:
            return set()
        lost = self._gone.intersection(deliveries)
        self._gone -= lost
        return lost
