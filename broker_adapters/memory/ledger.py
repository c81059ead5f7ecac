"""The ledger inside one process: the reference implementation of the seam."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress

from taskq.clock import now
from taskq.seams.ledger import Document, LedgerConfig, Mark, Pace, Slot, Wait, Want, longest


class Permits:
    """Slots and paces of all gates."""

    def __init__(self) -> None:
        self._slots: defaultdict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
        self._next: dict[str, float] = {}

    def ask(self, wants: Sequence[Want], holder: str, time: float, lease: float) -> Wait | None:
        in_the_way = [wait for want in wants if (wait := self._wait(want, time)) is not None]
        if in_the_way:
            return longest(in_the_way)
        for want in wants:
            if isinstance(want, Slot):
                self._slots[want.gate][want.member] = holder, time + lease
            else:
                self._next[want.gate] = max(self._next.get(want.gate, time), time) + want.interval
        return None

    def _wait(self, want: Want, time: float) -> Wait | None:
        if isinstance(want, Pace):
            early = self._next.get(want.gate, time) - want.interval * (want.burst - 1) - time
            return Wait(want.gate, early) if early > 0 else None
        slots = self._slots[want.gate] = {
            member: slot for member, slot in self._slots[want.gate].items() if slot[1] > time
        }
        return None if want.member in slots or len(slots) < want.limit else Wait(want.gate, None)

    def release(self, slot: Slot, holder: str) -> None:
        slots = self._slots[slot.gate]
        if slots.get(slot.member, ("", 0))[0] == holder:
            del slots[slot.member]

    def keep(self, holder: str, time: float, lease: float) -> None:
        for slots in self._slots.values():
            slots.update(
                {
                    m: (holder, time + lease)
                    for m, (by, until) in slots.items()
                    if by == holder and until > time
                }
            )


class LedgerHub:
    """All that is kept under one name. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.permits = Permits()
        self.documents: defaultdict[str, dict[str, Document]] = defaultdict(dict)
        self.marks: dict[str, tuple[str, float]] = {}
        self._version = 0
        self._watchers: defaultdict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(
            set
        )

    def next_version(self, kind: str) -> int:
        """The number of a change, which watchers are told of."""
        self._version += 1
        for loop, news in self._watchers[kind]:
            with suppress(RuntimeError):  # its loop has ended: nobody waits there
                loop.call_soon_threadsafe(news.set)
        return self._version

    def watch(self, kind: str) -> asyncio.Event:
        news = asyncio.Event()
        news.set()
        with self.lock:
            self._watchers[kind].add((asyncio.get_running_loop(), news))
        return news

    def unwatch(self, kind: str, news: asyncio.Event) -> None:
        with self.lock:
            self._watchers[kind].discard((asyncio.get_running_loop(), news))


HUBS: defaultdict[str, LedgerHub] = defaultdict(LedgerHub)


class MemoryLedger:
    """Connects to the hub of its name; see `taskq.seams.ledger.Ledger`."""

    def __init__(self, config: LedgerConfig) -> None:
        self._hub = HUBS[config.url]

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to disconnect from."""

    async def put(self, kind: str, name: str, value: bytes, *, if_version: int | None = None) -> int | None:
        with self._hub.lock:
            documents = self._hub.documents[kind]
            present = documents[name].version if name in documents else 0
            if if_version not in {None, present}:
                return None
            version = self._hub.next_version(kind)
            documents[name] = Document(version, value)
        return version

    async def get(self, kind: str, names: Sequence[str] | None = None) -> Mapping[str, Document]:
        with self._hub.lock:
            documents = self._hub.documents[kind]
            return {
                name: documents[name] for name in (documents if names is None else names) if name in documents
            }

    async def drop(self, kind: str, names: Sequence[str]) -> None:
        with self._hub.lock:
            for name in names:
                self._hub.documents[kind].pop(name, None)
            self._hub.next_version(kind)

    async def changes(self, kind: str) -> AsyncGenerator[None, None]:
        news = self._hub.watch(kind)
        try:
            while await news.wait():
                news.clear()
                yield
        finally:
            self._hub.unwatch(kind, news)

    async def mark(self, marks: Sequence[Mark]) -> Sequence[str | None]:
        with self._hub.lock:
            time = now()
            self._hub.marks = {name: mark for name, mark in self._hub.marks.items() if mark[1] > time}
            return [self._mark(mark, time) for mark in marks]

    def _mark(self, mark: Mark, time: float) -> str | None:
        holder, _ = self._hub.marks.get(mark.name, (mark.holder, time))
        if holder != mark.holder:
            return holder
        self._hub.marks[mark.name] = mark.holder, time + mark.lease
        return None

    async def unmark(self, marks: Sequence[Mark]) -> None:
        with self._hub.lock:
            for mark in marks:
                if self._hub.marks.get(mark.name, ("", 0))[0] == mark.holder:
                    del self._hub.marks[mark.name]

    async def acquire(
        self, asks: Sequence[Sequence[Want]], holder: str, lease: float
    ) -> Sequence[Wait | None]:
        with self._hub.lock:
            time = now()
            return [self._hub.permits.ask(wants, holder, time, lease) for wants in asks]

    async def release(self, slots: Sequence[Slot], holder: str) -> None:
        with self._hub.lock:
            for slot in slots:
                self._hub.permits.release(slot, holder)

    async def keep(self, holder: str, lease: float) -> None:
        with self._hub.lock:
            self._hub.permits.keep(holder, now(), lease)
