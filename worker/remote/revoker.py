"""Revoking what this worker holds: what waits is taken out at once, what runs is ended if that is asked for."""

import logging
from collections.abc import Sequence

from taskq.clock import now
from taskq.errors import OperationalError
from taskq.run.ends import REVOKED, Revoked
from taskq.seams.broker import REVOKED_FOR, Broker
from taskq.worker.effects.completer import Completer
from taskq.worker.intake.intake import Holdings, Intake
from taskq.worker.intake.revocations import keys_of
from taskq.worker.run.job import Job
from taskq.worker.run.runner import Runner

logger = logging.getLogger("taskq.worker")


class Revoker:
    """Revokes by task id or stamp; see `revocations.keys_of`."""

    def __init__(
        self,
        broker: Broker,
        holdings: Holdings,
        intake: Intake,
        runner: Runner,
        completer: Completer,
    ) -> None:
        self._broker = broker
        self._custody = holdings.custody
        self._intake = intake
        self._runner = runner
        self._completer = completer
        self.known = holdings.revocations

    async def revoke(self, keys: Sequence[str]) -> None:
        """What waits here and has one of these keys ends as REVOKED now; later ones, in any worker, when they come."""
        self.known.add(keys)
        jobs = self.held(keys)
        for job in self._intake.withdraw(jobs) | self._runner.withdraw(jobs):
            self._completer.end(job, Revoked(REVOKED))
        try:
            known = frozenset(await self._broker.revoked(keys))
            if missing := [key for key in keys if key not in known]:  # else the caller told the broker
                await self._broker.revoke(missing, now() + REVOKED_FOR)
                await self._broker.recall(missing)
        except OperationalError as error:
            logger.warning("revoked here only, the broker could not be told: %s", error)

    def terminate(self, keys: Sequence[str], signum: int) -> list[Job]:
        """End those that run; tells which."""
        jobs = [job for job in self.held(keys) if job in self._runner.running]
        for job in jobs:
            self._runner.terminate(job, signum)
        return jobs

    def everything(self) -> list[Job]:
        """All jobs here."""
        return self._custody.jobs()

    def held(self, keys: Sequence[str]) -> list[Job]:
        """The jobs here that have one of these keys."""
        wanted = set(keys)
        return [job for job in self._custody.jobs() if not wanted.isdisjoint(keys_of(job.request))]
