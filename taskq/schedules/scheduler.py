"""Sends entries when they are due. Any number of schedulers may run: there is no leader.

Each has all entries, and at each instant publishes the same message: same id, same name (`Message.once`), of which
the broker takes the first and drops the others in the same step. So between deciding and sending there is no moment
in which a scheduler that dies would lose an instant. RabbitMQ cannot drop: there a mark in the ledger decides who
sends, and if that one dies before it has said so, another sends under the same id.
"""

import asyncio
import heapq
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from logging import getLogger
from typing import Final, NamedTuple
from uuid import uuid4

from taskq.clock import now
from taskq.errors import OperationalError, TaskqError
from taskq.schedules.entries import Entry, PeriodicApp, entries_of_code, zone_of
from taskq.schedules.overlap import check_overlap, may_send
from taskq.schedules.plan import following, plan, shift
from taskq.schedules.records import Progress, ScheduleRecords
from taskq.seams.ledger import Mark

logger = getLogger("taskq.beat")

#: Seconds a scheduler has on RabbitMQ to send what it has marked, before another may.
MARK: Final = 10.0
#: Seconds until an entry is looked at again that another scheduler is sending, or that could not be sent.
AGAIN: Final = 1.0
#: Seconds between two looks at the clock: it may have been set, and loops do not notice that.
LOOK: Final = 300.0
#: Entries sent at the same time by one scheduler.
AT_ONCE: Final = 200


class Turn(NamedTuple):
    """When an entry is to be looked at, in Unix seconds."""

    when: float
    name: str


class Scheduler:
    """Sends the entries of an app until it is stopped.

    Args:
        app: whose entries it sends.
    """

    def __init__(self, app: PeriodicApp) -> None:
        self._app = app
        self._zone = zone_of(app)
        self._patience = timedelta(seconds=app.conf.beat_max_lateness)
        self._holder = str(uuid4())
        self._entries: dict[str, Entry] = {}
        self._progress: dict[str, Progress] = {}
        self._turns: list[Turn] = []
        self._news = asyncio.Event()
        self._changed = True
        self._stopping = False
        #: Is set once the entries are known for the first time.
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """End after what is being sent."""
        self._stopping = True
        self._news.set()

    async def check(self) -> None:
        """Make sure that it can run, without connecting. Raises ConfigError."""
        self._app.shared_connection().ledger_config("a scheduler")
        for entry in (await entries_of_code(self._app)).values():
            check_overlap(self._app, entry)

    async def run(self) -> None:
        """Send what is due until stopped.

        Raises:
            ConfigError: an entry of the code is wrong, or there is no place for a ledger.
            OperationalError: broker or ledger could not be reached at the start; later it tries again.
        """
        connection = self._app.shared_connection()
        self._records = ScheduleRecords(self._app, await connection.open_ledger("a scheduler"))
        self._broker = await connection.open_broker()
        await self._load()
        self.ready.set()
        watching = asyncio.create_task(self._watch(), name="taskq-schedule-changes")
        try:
            while not self._stopping:
                await self._turn()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def run_for_ever(self) -> None:
        """The same beside other work: what cannot be reached at the start is tried again, any other error is logged."""
        while not self._stopping:
            try:
                await self.run()
            except OperationalError as error:
                logger.warning("periodic tasks cannot be sent, trying again: %s", error)
                await self._pause()
            except Exception:
                logger.exception("periodic tasks are not sent")
                return

    async def _watch(self) -> None:
        async for _ in self._records.ledger.changes(self._records.edits_kind):
            self._changed = True
            self._news.set()

    async def _turn(self) -> None:
        """Wait for the next entry or an edit, and do what is to be done."""
        if not self._changed:
            await self._wait()
        self._news.clear()
        if self._changed:
            try:
                await self._load()
            except TaskqError as error:
                logger.warning("the entries cannot be read, trying again: %s", error)
                await self._pause()
        await self._send_due()

    async def _wait(self) -> None:
        longest = self._app.conf.beat_max_loop_interval or LOOK
        pause = min(longest, self._turns[0].when - now()) if self._turns else longest
        if pause > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                await self._news.wait()

    # -- what there is

    async def _load(self) -> None:
        """Read entries, edits and progress anew."""
        entries, edits = await self._records.entries()
        for entry in entries.values():
            check_overlap(self._app, entry)
        self._changed = False
        self._entries = {
            name: entry
            for name, entry in entries.items()
            if not ((edit := edits.get(name)) is not None and edit.paused)
        }
        known = await self._records.progress(list(self._entries))
        new = [name for name in self._entries if name not in known]
        begun = await asyncio.gather(*[self._records.begin(name, _now()) for name in new])
        self._progress = known | dict(zip(new, begun, strict=True))
        self._turns = []
        for name in self._entries:
            self._schedule(name)

    def _schedule(self, name: str) -> None:
        """Put an entry into the line by its next instant."""
        entry, progress = self._entries[name], self._progress[name]
        policy = entry.schedule.policy
        if policy.max_runs is not None and progress.runs >= policy.max_runs:
            return
        instant = following(entry.schedule, progress.last, self._zone)
        if instant is not None:
            due = instant + shift(name, instant, policy.jitter)
            heapq.heappush(self._turns, Turn(due.timestamp(), name))

    # -- sending

    async def _send_due(self) -> None:
        time, due = now(), list[str]()
        while self._turns and self._turns[0].when <= time and len(due) < AT_ONCE:
            due.append(heapq.heappop(self._turns).name)
        for name, done in zip(due, await asyncio.gather(*map(self._advance, due)), strict=True):
            if done:
                self._schedule(name)
            else:
                heapq.heappush(self._turns, Turn(now() + AGAIN, name))

    async def _advance(self, name: str) -> bool:
        """Send what has come of one entry; False: it is to be looked at again soon."""
        entry, progress = self._entries[name], self._progress[name]
        planned = plan(name, entry.schedule, progress.last, _now(), self._zone, self._patience)
        if planned.left_out:
            logger.warning(
                "%s: %d of its instants came more than %s ago and are left out (catch_up=%s)",
                *(name, planned.left_out, self._patience, entry.schedule.policy.catch_up),
            )
        try:
            for instant in planned.send:
                if not await self._send(entry, instant):
                    self._progress |= await self._records.progress([name])
                    return False
            progress = self._progress[name]
            self._progress[name] = await self._records.advance(name, progress, planned.last, sent=False)
        except TaskqError as error:
            logger.warning("%s could not be sent, trying again: %s", name, error)
            return False
        except Exception:
            logger.exception("%s could not be sent, trying again", name)
            return False
        return True

    async def _send(self, entry: Entry, instant: datetime) -> bool:
        """Send the task of one instant; False: another scheduler is about to."""
        progress, most = self._progress[entry.name], entry.schedule.policy.max_runs
        if instant <= progress.last or (most is not None and progress.runs >= most):
            return True
        if not self._broker.features.once and not await self._is_ours(entry, instant):
            return False
        sent = await may_send(self._app, entry, progress, instant)
        if sent:
            task_id = entry.task_id(self._app, instant)
            await self._app.send(entry.signature(task_id), once=entry.once(self._app, instant))
            logger.debug("%s: sent %s[%s]", entry.name, entry.task, task_id)
        self._progress[entry.name] = await self._records.advance(entry.name, progress, instant, sent=sent)
        return True

    async def _is_ours(self, entry: Entry, instant: datetime) -> bool:
        """Whether we are to send it, on a broker that takes everything."""
        mark = Mark(entry.once(self._app, instant), self._holder, MARK)
        [other] = await self._records.ledger.mark([mark])
        if other is not None:
            return False
        known = (await self._records.progress([entry.name])).get(entry.name)
        if known is not None:
            self._progress[entry.name] = known
        return known is None or known.last < instant


def _now() -> datetime:
    return datetime.fromtimestamp(now(), UTC)
