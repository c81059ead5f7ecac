"""The embedded result store: the same SQLite file as the embedded broker. Safety: see `taskq.broker_adapters.sqlite.file`."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from taskq.broker_adapters.sqlite import chords as chords_sql
from taskq.broker_adapters.sqlite import states as sql
from taskq.broker_adapters.sqlite.file import READ, Failure, SqliteFile
from taskq.broker_adapters.sqlite.states import Change, StateRow
from taskq.broker_adapters.sqlite.wake import WakeSocket
from taskq.clock import now
from taskq.errors import EncodeError, Refused, SaveErrors, StoreError
from taskq.seams.store import (
    Joined,
    ResultStore,
    StoreConfig,
    TaskResult,
    check_part,
    join_when_free,
    storable,
)
from taskq.states import READY

logger = logging.getLogger(__name__)

#: What those who wait for results listen to.
RESULTS: Final = "results"
#: Seconds between two looks at the file while nobody tells of anything.
LOOK: Final = 0.5
#: The most bytes of one result: SQLite takes rows of a billion, other columns included.
LARGEST: Final = 999_999_000
#: When a result does not expire: 300,000 years.
FOREVER: Final = 1e13
#: After so many saved states twice as many rows are looked at for expired ones: so the file stays bounded.
CLEAN_EVERY: Final = 200


def refuse(failure: Failure) -> StoreError:
    return StoreError(failure.text)


class SqliteWatcher:
    """What one `watch` has still to give out: states later than number `seq`."""

    def __init__(self) -> None:
        self.seq = -1
        self._changes: deque[Change] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def begin(self, present: Change) -> None:
        self._changes.appendleft(present)
        self._news.set()

    def tell(self, change: Change) -> None:
        self._changes.append(change)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def next(self) -> bytes:
        while True:
            while self._changes:
                change = self._changes.popleft()
                if change.seq > self.seq:  # what is older came with the first look
                    self.seq = change.seq
                    return change.raw
            if self._closed:
                raise StoreError("the connection to the result store was closed")
            self._news.clear()
            await self._news.wait()


class Feed:
    """Reads what is added to the log and hands it to the watchers; runs while there are any."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._watchers: dict[str, set[SqliteWatcher]] = {}
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._read_to: int | None = None
        self._left_at = 0.0

    def watchers(self, task_id: str) -> int:
        return len(self._watchers.get(task_id, ()))

    async def join(self, task_id: str) -> SqliteWatcher:
        watcher = SqliteWatcher()
        self._watchers.setdefault(task_id, set()).add(watcher)
        try:
            end, state = await self._file.run(sql.present, task_id, mode=READ)
        except BaseException:
            self.leave(task_id, watcher)
            raise
        if self._read_to is None:  # what is older, this and all later watchers find at their first look
            self._read_to = end
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        if state is not None:
            watcher.begin(state)
        return watcher

    def leave(self, task_id: str, watcher: SqliteWatcher) -> None:
        watchers = self._watchers[task_id]
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[task_id]
        self._left_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        """Hand out what is added; stays a moment after the last watcher, since the next one often follows."""
        clock = asyncio.get_running_loop().time
        listener = WakeSocket(self._file.wake_folder, RESULTS, self._news.set)
        try:
            while self._watchers or clock() < self._left_at + LOOK:
                self._news.clear()
                if not await self._hand_out():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK):
                            await self._news.wait()
        finally:
            listener.close()
            self._reading = self._read_to = None

    async def _hand_out(self) -> bool:
        """One look at the log; whether there may be more."""
        start = self._read_to or 0
        try:
            end, found = await self._file.run(sql.changes, start, self._watchers, mode=READ)
        except StoreError as error:
            self._file.tell_outage(error)
            return False
        except Exception:
            logger.exception("cannot read results, trying again")
            return False
        self._read_to = end
        for change in found:
            for watcher in self._watchers.get(change.task_id, ()):
                watcher.tell(change)
        return end - start >= sql.MOST_CHANGES


class SqliteStore(ResultStore):
    """Connects to a file; see `taskq.seams.store.ResultStore`."""

    keeps_chords: ClassVar[bool] = True

    def __init__(self, config: StoreConfig) -> None:
        self._file = SqliteFile(config.url, f"{sql.SCHEMA};{chords_sql.SCHEMA}", refuse)
        self._lifetime = config.expires or FOREVER
        self._serializer = config.serializer
        self._saved = 0
        self._cleaned_to = 0
        self.feed = Feed(self._file)

    async def open(self) -> None:
        await self._file.open()

    async def close(self) -> None:
        await self.feed.close()
        self._file.close()

    async def save(self, results: Sequence[TaskResult]) -> None:
        time, failures = now(), dict[int, Refused]()
        states = []
        for index, one in storable(results, failures):
            raw = self._serializer.dumps(one.payload())
            if len(raw) > LARGEST:
                failures[index] = Refused(
                    f"the result of {one.task_id} has {len(raw):,} bytes: SQLite takes 1 GB"
                )
            else:
                states.append(StateRow(time + self._lifetime, time, one.task_id, one.state, raw))
        if states:
            await self._file.run(sql.save, states, topic=RESULTS)
            await self._clean(len(states))
        if failures:
            raise SaveErrors(failures)

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        found = await self._file.run(sql.load, task_ids, mode=READ)
        return [self._read(found[task_id]) if task_id in found else None for task_id in task_ids]

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        watcher = await self.feed.join(task_id)
        try:
            final = False
            while not final:
                result = self._read(await watcher.next())
                final = result.state in READY
                yield result
        finally:
            self.feed.leave(task_id, watcher)

    async def forget(self, task_ids: Sequence[str]) -> None:
        await self._file.run(sql.forget, task_ids)

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        await self._file.run(chords_sql.begin, sizes, now() + self._lifetime)

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        await self._file.run(chords_sql.grow, group_id, task_id, now() + self._lifetime)

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        row, until = self._row(part, index), now() + self._lifetime
        joined = await join_when_free(lambda: self._file.run(chords_sql.join, row, until))
        return None if joined is None else [self._read(raw) for raw in joined]

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        """In one transaction."""
        answers: list[Joined] = [None] * len(parts)
        rows: dict[int, chords_sql.StoredPart] = {}
        for number, (part, index) in enumerate(parts):
            try:
                rows[number] = self._row(part, index)
            except (EncodeError, Refused) as error:
                answers[number] = error
        found = await self._file.run(chords_sql.join_many, list(rows.values()), now() + self._lifetime)
        for number, joined in zip(rows, found, strict=True):
            answers[number] = [self._read(raw) for raw in joined] if isinstance(joined, list) else joined
        return answers

    def _row(self, part: TaskResult, index: int | None) -> chords_sql.StoredPart:
        check_part(part, index)
        place = chords_sql.LAST if index is None else float(index)
        raw = self._serializer.dumps(part.payload())
        return chords_sql.StoredPart(str(part.group_id), place, part.task_id, raw, part.state)

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        await self._file.run(chords_sql.end, group_ids, now() + self._lifetime)

    async def save_group(self, group_id: str, data: Any) -> None:
        raw = self._serializer.dumps(data)
        await self._file.run(sql.save_group, group_id, now() + self._lifetime, raw)

    async def load_group(self, group_id: str) -> Any:
        raw = await self._file.run(sql.load_group, group_id, mode=READ)
        return None if raw is None else self._serializer.loads(raw)

    async def forget_group(self, group_id: str) -> None:
        await self._file.run(sql.forget_group, group_id)

    async def _clean(self, saved: int) -> None:
        self._saved += saved
        if self._saved >= CLEAN_EVERY:
            count, self._saved = 2 * self._saved, 0
            self._cleaned_to = await self._file.run(sql.clean, self._cleaned_to, count)

    def _read(self, raw: bytes) -> TaskResult:
        return TaskResult.from_payload(self._serializer.loads(raw))
