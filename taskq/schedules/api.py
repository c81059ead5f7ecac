"""`app.schedules`: entries at run time. What is changed here is seen by all schedulers within a second."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from taskq.canvas.signature import Signature
from taskq.clock import now
from taskq.near import near_match
from taskq.results.handles import AsyncResult
from taskq.schedules.entries import Entry, PeriodicApp, of_signature, zone_of
from taskq.schedules.overlap import check_overlap
from taskq.schedules.plan import following
from taskq.schedules.records import Edit, ScheduleRecords
from taskq.sync import SyncResult, run_sync

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ScheduledEntry:
    """An entry and how it stands.

    Attributes:
        entry: name, schedule, task, arguments and options.
        owner: `code`, or `user` if it was put at run time.
        paused: whether it sends nothing.
        last: the latest instant that was sent or left out; None: no scheduler has seen it yet.
        runs: how many were sent.
        next: the next instant; None: it is paused, or has ended.
    """

    entry: Entry
    owner: Literal["code", "user"]
    paused: bool
    last: datetime | None
    runs: int
    next: datetime | None


class Schedules:
    """`app.schedules`: the verbs.

    Each raises OperationalError when the ledger cannot be reached, and ConfigError when there is no place for one (the
    setting `ledger_url`).

    What is put under the name of an entry of the code stands instead of it, also after a deploy, until it is removed.
    """

    def __init__(self, app: PeriodicApp) -> None:
        self._app = app

    @property
    def sync(self) -> "SyncSchedules":
        """The same verbs for code without an event loop."""
        return SyncSchedules(self)

    async def put(self, name: str, schedule: Any, signature: Signature[Any]) -> None:
        """Add an entry, or replace the one of this name.

        Args:
            name: names it among all entries of the app.
            schedule: of `taskq.schedules`, seconds, a timedelta, or an object of `celery.schedules`.
            signature: what is sent: `sync.s(7)`, with options as `sync.s(7).set(expires=60)`.

        Raises:
            TypeError: the schedule is none, or the signature is a canvas.
            EncodeError: the arguments cannot be kept as JSON.
        """
        entry = of_signature(name, schedule, signature)
        check_overlap(self._app, entry)
        records = await self._records()
        if (
            known := (await records.progress([name])).get(name)
        ) is not None:  # what passed before was another's
            await records.advance(name, known, _now(), sent=False)
        await records.edit(name, lambda edit: replace(edit, entry=entry))

    async def get(self, name: str) -> ScheduledEntry | None:
        """One entry, or None."""
        return (await self.all()).get(name)

    async def all(self) -> Mapping[str, ScheduledEntry]:
        """All entries by name."""
        records = await self._records()
        entries, edits = await records.entries()
        progress, zone = await records.progress(), zone_of(self._app)
        found = {}
        for name, entry in sorted(entries.items()):
            edit, known = edits.get(name, Edit()), progress.get(name)
            runs, most = known.runs if known else 0, entry.schedule.policy.max_runs
            ended = edit.paused or (most is not None and runs >= most)
            found[name] = ScheduledEntry(
                entry,
                "user" if edit.entry else "code",
                edit.paused,
                known.last if known else None,
                runs,
                None if ended else following(entry.schedule, _now(), zone),
            )
        return found

    async def remove(self, name: str) -> None:
        """Remove what was put under this name; an entry of the code is again as the code has it.

        Raises:
            KeyError: there is no such entry.
            ValueError: it is of the code alone: pause it, or remove it there.
        """
        found, records = await self._known(name), await self._records()
        if found.owner == "code":
            raise ValueError(f"{name!r} is declared in the code: pause it, or remove it there")
        await records.forget_edit(name)
        await records.forget_progress(name)

    async def pause(self, name: str) -> None:
        """Have an entry send nothing until it is resumed. Raises KeyError: there is no such entry."""
        await self._known(name)
        await (await self._records()).edit(name, lambda edit: replace(edit, paused=True))

    async def resume(self, name: str) -> None:
        """Have a paused entry send again, from its next instant on. Raises KeyError: there is no such entry."""
        if not (await self._known(name)).paused:
            return
        records = await self._records()
        if (known := (await records.progress([name])).get(name)) is not None:
            await records.advance(name, known, _now(), sent=False)
        await records.edit(name, lambda edit: replace(edit, paused=False))

    async def run_now(self, name: str) -> AsyncResult[Any]:
        """Send an entry's task now, beside its schedule; the handle of its result. Raises KeyError: there is none."""
        result: AsyncResult[Any] = await self._app.send((await self._known(name)).entry.signature(None))
        return result

    async def next(self, name: str, count: int = 1) -> list[datetime]:
        """The next instants of an entry, in UTC; fewer where it ends. Raises KeyError: there is no such entry."""
        schedule, zone = (await self._known(name)).entry.schedule, zone_of(self._app)
        found: list[datetime] = []
        while len(found) < count:
            instant = following(schedule, found[-1] if found else _now(), zone)
            if instant is None:
                break
            found.append(instant)
        return found

    async def _known(self, name: str) -> ScheduledEntry:
        entries = await self.all()
        if name not in entries:
            raise KeyError(f"there is no entry {name!r}.{near_match(name, entries)}")
        return entries[name]

    async def _records(self) -> ScheduleRecords:
        return ScheduleRecords(self._app, await self._app.shared_connection().open_ledger("app.schedules"))


class SyncSchedules:
    """`app.schedules.sync`: the same verbs, blocking."""

    __slots__ = ("_schedules",)

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    def put(self, name: str, schedule: Any, signature: Signature[Any]) -> None:
        """See `Schedules.put`."""
        run_sync(self._schedules.put(name, schedule, signature), "app.schedules.put(...)")

    def get(self, name: str) -> ScheduledEntry | None:
        """See `Schedules.get`."""
        return run_sync(self._schedules.get(name), "app.schedules.get(...)")

    def all(self) -> Mapping[str, ScheduledEntry]:
        """See `Schedules.all`."""
        return run_sync(self._schedules.all(), "app.schedules.all()")

    def remove(self, name: str) -> None:
        """See `Schedules.remove`."""
        run_sync(self._schedules.remove(name), "app.schedules.remove(...)")

    def pause(self, name: str) -> None:
        """See `Schedules.pause`."""
        run_sync(self._schedules.pause(name), "app.schedules.pause(...)")

    def resume(self, name: str) -> None:
        """See `Schedules.resume`."""
        run_sync(self._schedules.resume(name), "app.schedules.resume(...)")

    def run_now(self, name: str) -> SyncResult[Any]:
        """See `Schedules.run_now`."""
        return SyncResult(run_sync(self._schedules.run_now(name), "app.schedules.run_now(...)"))

    def next(self, name: str, count: int = 1) -> list[datetime]:
        """See `Schedules.next`."""
        return run_sync(self._schedules.next(name, count), "app.schedules.next(...)")


def _now() -> datetime:
    return datetime.fromtimestamp(now(), UTC)
