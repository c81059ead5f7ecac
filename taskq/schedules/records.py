"""What schedulers share in the ledger: edits made at run time, and how far each entry has come."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from logging import getLogger
from typing import Any, Final

from taskq.errors import TaskqError
from taskq.schedules.entries import Entry, PeriodicApp, entries_of_code, loaded
from taskq.seams.ledger import Document, Ledger
from taskq.wire.serializers import get_serializer

logger = getLogger(__name__)

_JSON: Final = get_serializer("json")


@dataclass(frozen=True, slots=True)
class Edit:
    """What was changed at run time about an entry: `entry` stands instead of that of the code."""

    entry: Entry | None = None
    paused: bool = False

    def dump(self) -> bytes:
        """As it is kept."""
        return _JSON.dumps({"entry": self.entry and self.entry.dump(), "paused": self.paused})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an entry has come.

    Attributes:
        last: the latest instant that was sent or left out.
        sent: the latest instants that were sent, two at most, the newest last.
        runs: how many were sent.
        version: of the document it was read from.
    """

    last: datetime
    sent: tuple[datetime, ...] = ()
    runs: int = 0
    version: int = 0

    def dump(self) -> bytes:
        """As it is kept."""
        sent = [instant.isoformat() for instant in self.sent]
        return _JSON.dumps({"last": self.last.isoformat(), "sent": sent, "runs": self.runs})

    def after(self, instant: datetime, *, sent: bool) -> "Progress":
        """The same with one instant more."""
        if not sent:
            return replace(self, last=instant)
        return replace(self, last=instant, sent=(*self.sent, instant)[-2:], runs=self.runs + 1)


class ScheduleRecords:
    """Edits and progress of one app's entries. Methods raise OperationalError when the ledger cannot be asked."""

    def __init__(self, app: PeriodicApp, ledger: Ledger) -> None:
        self._app = app
        self.ledger = ledger
        self.edits_kind = f"schedule:{app.main}"
        self._progress_kind = f"schedule-progress:{app.main}"

    async def edits(self) -> dict[str, Edit]:
        """All edits by name; those that cannot be read are logged and left alone."""
        found = await self.ledger.get(self.edits_kind)
        read = {name: self._read_edit(name, document) for name, document in found.items()}
        return {name: edit for name, edit in read.items() if edit is not None}

    def _read_edit(self, name: str, document: Document) -> Edit | None:
        try:
            data: Mapping[str, Any] = _JSON.loads(document.value)
            entry = None if data["entry"] is None else loaded(name, data["entry"])
            return Edit(entry, bool(data["paused"]))
        except (TaskqError, ValueError, KeyError, TypeError) as error:
            logger.warning("the entry %r in the ledger cannot be read and is left out: %s", name, error)
            return None

    async def edit(self, name: str, change: Callable[[Edit], Edit]) -> Edit:
        """Change one entry's edit, whoever else changes it meanwhile."""
        while True:
            document = (await self.ledger.get(self.edits_kind, [name])).get(name)
            known = self._read_edit(name, document) if document else None
            edited = change(known or Edit())
            version = document.version if document else 0
            if await self.ledger.put(self.edits_kind, name, edited.dump(), if_version=version) is not None:
                return edited

    async def forget_edit(self, name: str) -> None:
        """Remove what was changed at run time."""
        await self.ledger.drop(self.edits_kind, [name])

    async def entries(self) -> tuple[dict[str, Entry], dict[str, Edit]]:
        """All entries there are, those of the code as they were edited, and the edits. Raises ConfigError, too."""
        edits = await self.edits()
        edited = {name: edit.entry for name, edit in edits.items() if edit.entry is not None}
        return {**await entries_of_code(self._app), **edited}, edits

    async def progress(self, names: list[str] | None = None) -> dict[str, Progress]:
        """How far these entries have come, where it is known."""
        found = await self.ledger.get(self._progress_kind, names)
        return {name: _progress(document) for name, document in found.items()}

    async def begin(self, name: str, now: datetime) -> Progress:
        """An entry is new: its instants count from now on. Says what is true if it is not new after all."""
        await self.ledger.put(self._progress_kind, name, Progress(now).dump(), if_version=0)
        return (await self.progress([name]))[name]

    async def advance(self, name: str, known: Progress, instant: datetime, *, sent: bool) -> Progress:
        """Record an instant, unless somebody has recorded it or a later one; how far the entry has come."""
        while known.last < instant:
            further = known.after(instant, sent=sent)
            version = await self.ledger.put(
                self._progress_kind, name, further.dump(), if_version=known.version
            )
            if version is not None:
                return replace(further, version=version)
            known = (await self.progress([name])).get(name) or replace(known, version=0)
        return known

    async def forget_progress(self, name: str) -> None:
        """Remove how far an entry has come."""
        await self.ledger.drop(self._progress_kind, [name])


def _progress(document: Document) -> Progress:
    data = _JSON.loads(document.value)
    sent = tuple(datetime.fromisoformat(text) for text in data["sent"])
    return Progress(datetime.fromisoformat(data["last"]), sent, data["runs"], document.version)
