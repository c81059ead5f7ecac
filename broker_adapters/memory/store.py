"""The result store inside one process: the reference implementation of the seam.

`memory://name` names a hub of the process; every connection to the same name shares it, from any event loop
or thread. Results are kept encoded, as every other store keeps them.
"""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

from taskq.clock import now
from taskq.errors import EncodeError, Refused, SaveErrors
from taskq.seams.store import (
    CHORD_CLAIM,
    Claimed,
    Joined,
    ResultStore,
    StoreConfig,
    TaskResult,
    check_part,
    join_when_free,
    storable,
)
from taskq.states import READY, SUCCESS

FOREVER = float("inf")


class Stored(NamedTuple):
    raw: bytes
    state: str
    expires_at: float


class MemoryWatcher:
    """What one `watch` has still to give out."""

    def __init__(self) -> None:
        self.states: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def tell(self, raw: bytes) -> None:
        self.states.append(raw)
        if asyncio.get_running_loop() is self._loop:
            self._news.set()
        else:
            with suppress(RuntimeError):  # its loop has ended: nobody waits there
                self._loop.call_soon_threadsafe(self._news.set)

    async def next(self) -> bytes:
        while not self.states:
            self._news.clear()
            await self._news.wait()
        return self.states.popleft()


class StoredChord:
    """The parts of one chord that have returned; `size` None until it is begun."""

    def __init__(self, expires_at: float) -> None:
        self.expires_at = expires_at
        self.size: int | None = None
        self.ended = False
        self._parts: dict[tuple[str, float], bytes] = {}
        self._added: set[str] = set()
        self._failed = False
        self._claimant: tuple[str, float] = ("", 0.0)
        self._claimed_until = 0.0

    def begin(self, size: int) -> None:
        if self.size is None:
            self.size = size

    def grow(self, task_id: str) -> None:
        self._added.add(task_id)

    def join(
        self, part: TaskResult, index: int | None, raw: bytes, time: float
    ) -> list[bytes] | Claimed | None:
        if self.ended:
            return None
        key = part.task_id, FOREVER if index is None else index
        if key not in self._parts:
            self._parts[key] = raw
            self._failed |= part.state != SUCCESS
        if self.size is None or not (self._failed or len(self._parts) >= self.size + len(self._added)):
            return None
        if self._claimed_until > time:
            return Claimed.BY_ITSELF if self._claimant == key else None
        self._claimant, self._claimed_until = key, time + CHORD_CLAIM
        return [self._parts[key] for key in sorted(self._parts, key=lambda key: key[1])]

    def end(self) -> None:
        self.ended = True
        self._parts.clear()


class ResultHub:
    """All results of one name. Every method may be called from any thread that runs a loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: dict[str, Stored] = {}
        self._groups: dict[str, Stored] = {}
        self._chords: dict[str, StoredChord] = {}
        self._watchers: dict[str, set[MemoryWatcher]] = {}

    def chord(self, group_id: str, lifetime: float) -> StoredChord:
        time = now()
        while self._chords and self._chords[key := next(iter(self._chords))].expires_at <= time:
            del self._chords[key]
        chord = self._chords.pop(group_id, None) or StoredChord(time)
        chord.expires_at = time + lifetime
        self._chords[group_id] = chord  # last, so that the first ones are those that expire next
        return chord

    def begin_chords(self, sizes: Mapping[str, int], lifetime: float) -> None:
        with self._lock:
            for group_id, size in sizes.items():
                self.chord(group_id, lifetime).begin(size)

    def grow_chord(self, group_id: str, task_id: str, lifetime: float) -> None:
        with self._lock:
            self.chord(group_id, lifetime).grow(task_id)

    def join(
        self, part: TaskResult, index: int | None, raw: bytes, lifetime: float
    ) -> list[bytes] | Claimed | None:
        with self._lock:
            return self.chord(str(part.group_id), lifetime).join(part, index, raw, now())

    def end_chords(self, group_ids: Iterable[str], lifetime: float) -> None:
        with self._lock:
            for group_id in group_ids:
                self.chord(group_id, lifetime).end()

    def save(self, results: Iterable[tuple[str, Stored]]) -> None:
        with self._lock:
            time = now()
            for task_id, result in results:
                if (old := current(self._results, task_id, time)) is not None and old.state == SUCCESS:
                    continue
                put(self._results, task_id, result)
                for watcher in self._watchers.get(task_id, ()):
                    watcher.tell(result.raw)
            drop_expired(self._results, time)

    def load(self, task_ids: Iterable[str]) -> list[bytes | None]:
        with self._lock:
            time = now()
            found = [current(self._results, task_id, time) for task_id in task_ids]
        return [None if result is None else result.raw for result in found]

    def forget(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in task_ids:
                self._results.pop(task_id, None)

    def watch(self, task_id: str) -> MemoryWatcher:
        watcher = MemoryWatcher()
        with self._lock:
            if (result := current(self._results, task_id, now())) is not None:
                watcher.tell(result.raw)
            self._watchers.setdefault(task_id, set()).add(watcher)
        return watcher

    def unwatch(self, task_id: str, watcher: MemoryWatcher) -> None:
        with self._lock:
            watchers = self._watchers[task_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[task_id]

    def watchers(self, task_id: str) -> int:
        with self._lock:
            return len(self._watchers.get(task_id, ()))

    def save_group(self, group_id: str, group: Stored) -> None:
        with self._lock:
            put(self._groups, group_id, group)
            drop_expired(self._groups, now())

    def load_group(self, group_id: str) -> bytes | None:
        with self._lock:
            group = current(self._groups, group_id, now())
        return None if group is None else group.raw

    def forget_group(self, group_id: str) -> None:
        with self._lock:
            self._groups.pop(group_id, None)


def current(table: dict[str, Stored], key: str, time: float) -> Stored | None:
    stored = table.get(key)
    return stored if stored is not None and stored.expires_at > time else None


def put(table: dict[str, Stored], key: str, stored: Stored) -> None:
    """Store it as the last entry, so that the first ones are those that expire next."""
    table.pop(key, None)
    table[key] = stored


def drop_expired(table: dict[str, Stored], time: float) -> None:
    while table and table[key := next(iter(table))].expires_at <= time:
        del table[key]


HUBS: defaultdict[str, ResultHub] = defaultdict(ResultHub)


class MemoryStore(ResultStore):
    """Connects to the hub of its name; see `taskq.seams.store.ResultStore`."""

    keeps_chords: ClassVar[bool] = True

    def __init__(self, config: StoreConfig) -> None:
        self._hub = HUBS[config.url]
        self._lifetime = config.expires or FOREVER
        self._dumps: Callable[[Any], bytes] = config.serializer.dumps
        self._loads: Callable[[bytes], Any] = config.serializer.loads

    async def save(self, results: Sequence[TaskResult]) -> None:
        until, failures = now() + self._lifetime, dict[int, Refused]()
        self._hub.save(
            [
                (one.task_id, Stored(self._dumps(one.payload()), one.state, until))
                for _, one in storable(results, failures)
            ]
        )
        if failures:
            raise SaveErrors(failures)

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        return [None if raw is None else self._read(raw) for raw in self._hub.load(task_ids)]

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        watcher = self._hub.watch(task_id)
        try:
            final = False
            while not final:
                result = self._read(await watcher.next())
                final = result.state in READY
                yield result
        finally:
            self._hub.unwatch(task_id, watcher)

    async def forget(self, task_ids: Sequence[str]) -> None:
        self._hub.forget(task_ids)

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        self._hub.begin_chords(sizes, self._lifetime)

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        self._hub.grow_chord(group_id, task_id, self._lifetime)

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        check_part(part, index)
        raw = self._dumps(part.payload())

        async def attempt() -> list[bytes] | Claimed | None:
            return self._hub.join(part, index, raw, self._lifetime)

        joined = await join_when_free(attempt)
        return None if joined is None else [self._read(raw) for raw in joined]

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        return [self._join(part, index) for part, index in parts]

    def _join(self, part: TaskResult, index: int | None) -> Joined:
        try:
            check_part(part, index)
            joined = self._hub.join(part, index, self._dumps(part.payload()), self._lifetime)
        except (EncodeError, Refused) as error:
            return error
        return [self._read(raw) for raw in joined] if isinstance(joined, list) else joined

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        self._hub.end_chords(group_ids, self._lifetime)

    async def save_group(self, group_id: str, data: Any) -> None:
        self._hub.save_group(group_id, Stored(self._dumps(data), SUCCESS, now() + self._lifetime))

    async def load_group(self, group_id: str) -> Any:
        raw = self._hub.load_group(group_id)
        return None if raw is None else self._loads(raw)

    async def forget_group(self, group_id: str) -> None:
        self._hub.forget_group(group_id)

    def _read(self, raw: bytes) -> TaskResult:
        return TaskResult.from_payload(self._loads(raw))
