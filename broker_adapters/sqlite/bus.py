"""The bus over one SQLite file; see `taskq.seams.bus.Bus`.

A small table of the last messages: a listener begins behind its end and reads on when it is told of news.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from taskq.broker_adapters.sqlite.file import READ, SqliteFile
from taskq.broker_adapters.sqlite.wake import WakeSocket as WakeListener
from taskq.clock import now
from taskq.errors import DecodeError, OperationalError
from taskq.seams.bus import Arrivals, Exchange, Inbox
from taskq.seams.exchanges import takes
from taskq.wire.envelope import dumps, loads
from taskq.wire.message import Message

logger = logging.getLogger(__name__)

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS bus (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    raw BLOB NOT NULL)
"""

#: What listeners listen to.
TOPIC: Final = "bus"
#: Seconds a message is kept for listeners that are slow.
KEPT: Final = 60.0
#: Seconds between two looks while nobody tells of anything.
LOOK: Final = 1.0
#: Messages read at once.
MOST: Final = 1000


class BusRow(NamedTuple):
    """An announced message."""

    id: int
    routing_key: str
    raw: bytes


class SqliteListener(Arrivals):
    """See `taskq.seams.bus.Listener`."""

    def __init__(self, file: SqliteFile, inbox: Inbox, last: int, most: int) -> None:
        super().__init__(most)
        self._file = file
        self._inbox = inbox
        self._last = last
        self._told = asyncio.Event()
        self._wake = WakeListener(file.wake_folder, TOPIC, self._told.set)
        self._reader = asyncio.create_task(self._follow(), name="taskq-sqlite-bus")

    async def close(self) -> None:
        if self.ended:
            return
        self.end()
        self._wake.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            self._told.clear()
            try:
                while await self._read() == MOST:
                    pass
            except OperationalError as error:
                self._file.tell_outage(error)
            except Exception:
                logger.exception("cannot listen, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._told.wait()

    async def _read(self) -> int:
        rows = await self._file.run(newer, self._last, self._inbox.exchange.name, mode=READ)
        for row in rows:
            self._last = row.id
            if takes(self._inbox, row.routing_key):
                with suppress(DecodeError):
                    self.add(loads(row.raw))
        return len(rows)


class SqliteBus:
    """See `taskq.seams.bus.Bus`."""

    def __init__(self, file: SqliteFile, most: int) -> None:
        self._file = file
        self._most = most
        self._listeners: list[SqliteListener] = []

    async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        rows = [
            (now(), exchange.name, message.routing_key, dumps(message, delivery_tag=""))
            for message in messages
        ]
        await self._file.run(add, rows, self._most, topic=TOPIC)

    async def listen(self, inbox: Inbox) -> SqliteListener:
        last = await self._file.run(end, mode=READ)
        listener = SqliteListener(self._file, inbox, last, self._most)
        self._listeners = [known for known in self._listeners if not known.ended]
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()


def add(db: sqlite3.Connection, rows: Sequence[tuple[float, str, str, bytes]], most: int) -> None:
    """Add messages; of those before only the last `most` of the last minute stay."""
    db.execute("DELETE FROM bus WHERE at < ?", (now() - KEPT,))
    db.executemany("INSERT INTO bus (at, exchange, routing_key, raw) VALUES (?, ?, ?, ?)", rows)
    db.execute("DELETE FROM bus WHERE id <= (SELECT max(id) FROM bus) - ?", (most,))


def end(db: sqlite3.Connection) -> int:
    """The number of the last message there was, also if it is gone."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'bus'").fetchone()
    return int(row[0]) if row else 0


def newer(db: sqlite3.Connection, last: int, exchange: str) -> list[BusRow]:
    rows = db.execute(
        "SELECT id, routing_key, raw FROM bus WHERE id > ? AND exchange = ? ORDER BY id LIMIT ?",
        (last, exchange, MOST),
    )
    return list(map(BusRow._make, rows))
