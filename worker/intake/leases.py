"""Keeping the leases of what is held, and noticing those that were lost."""

import logging
import time
from collections.abc import Callable, Sequence

from taskq.errors import OperationalError
from taskq.seams.broker import Consumer
from taskq.seams.retry import retry_until_done
from taskq.wire.message import Delivery
from taskq.worker.intake.custody import Custody

logger = logging.getLogger("taskq.worker")


class Leases:
    """What is known of the leases. They are renewed by the watchdog's thread, which tells it so.

    After a longer silence (the process was stopped, the broker away) it asks before anything is begun or stored: what
    was lost meanwhile belongs to another worker.

    Args:
        clock: in seconds; it must not stand still while the loop is blocked.
    """

    def __init__(
        self, consumer: Consumer, custody: Custody, *, lease: float, clock: Callable[[], float]
    ) -> None:
        self._consumer = consumer
        self._custody = custody
        self.clock = clock
        self._renewed = clock()
        self._wall = time.time()
        self._gone: set[Delivery] = set()
        self.lease = lease
        #: A silence of so many seconds may have cost a lease.
        self._long = lease * 0.9
        #: How often they were renewed, and how many were lost, since the start.
        self.renewals = 0
        self.losses = 0

    def held(self) -> list[Delivery]:
        """What is to be renewed. May be called from any thread."""
        return self._custody.leased()

    def renewed(self, asked: float, lost: Sequence[Delivery]) -> None:
        """All were renewed, as of `asked` (on our clock), but for those that were lost. May come from any thread."""
        wall = time.time() - (self.clock() - asked)
        self.renewals += 1
        if lost and (lost := self._custody.missed(lost)):
            self.losses += len(lost)
            logger.warning("the leases of %d deliveries were lost: other workers have them", len(lost))
            self._gone.update(lost)
            self._custody.tell_lost(lost)
        # Last: who finds the leases fresh finds the lost ones marked.
        self._renewed, self._wall = max(self._renewed, asked), max(self._wall, wall)

    @property
    def doubtful(self) -> bool:
        """Whether some may be lost: else `lost` need not be asked."""
        return bool(self._gone) or self.stale

    @property
    def age(self) -> float:
        """Seconds since the last renewal."""
        return self.clock() - self._renewed

    @property
    def stale(self) -> bool:
        """Whether leases may have run out: ask before anything is begun.

        By the wall clock, too: while a machine sleeps the other one stands still on Linux. One that is set forward costs
        a question.
        """
        long = self._long  # asked before each run: at one go
        return self.clock() - self._renewed > long or time.time() - self._wall > long

    async def check(self) -> None:
        """Ask the broker what is still ours, until it answers."""
        await retry_until_done("ask for the leases", self._ask, OperationalError)

    async def _ask(self) -> None:
        asked = self.clock()
        self.renewed(asked, await self._consumer.renew(self.held()))

    async def without_late(self, asked: float, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Of what was asked for at that time and came now, what is still ours.

        A claim may have been granted long before its answer was read: the process was stopped in between.
        """
        if not (self.stale or self.clock() - asked > self._long):
            return deliveries
        lost = await retry_until_done(
            "ask for the leases", lambda: self._consumer.renew(deliveries), OperationalError
        )
        if not lost:
            return deliveries
        logger.warning("%d deliveries came too late: other workers have them", len(lost))
        await retry_until_done(
            "let go of deliveries", lambda: self._consumer.settle(requeue=lost), OperationalError
        )
        return [delivery for delivery in deliveries if delivery not in lost]

    async def lost(self, deliveries: Sequence[Delivery]) -> set[Delivery]:
        """Which of these are no longer ours; asks the broker only if their lease may have run out."""
        if self.stale:
            try:
                await self._ask()
            except OperationalError as error:  # the broker decides at settling
                logger.warning("could not check the leases: %s", error)
        if not self._gone:
            return set()
        lost = self._gone.intersection(deliveries)
        self._gone -= lost
        return lost
