"""The tables of the embedded ledger and what is done to them: functions of a connection, in a transaction."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from taskq.clock import now
from taskq.seams.ledger import Document, Mark, Pace, Slot, Wait, Want, longest

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS document_kinds (kind TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marks_until ON marks (until);
CREATE TABLE IF NOT EXISTS permits (
    gate TEXT NOT NULL, member TEXT NOT NULL, holder TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (gate, member)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS permits_holder ON permits (holder);
CREATE INDEX IF NOT EXISTS permits_until ON permits (until);
CREATE TABLE IF NOT EXISTS rates (gate TEXT PRIMARY KEY, next REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rates_next ON rates (next)
"""


def put(db: sqlite3.Connection, kind: str, name: str, value: bytes, if_version: int | None) -> int | None:
    row = db.execute("SELECT version FROM documents WHERE kind = ? AND name = ?", (kind, name)).fetchone()
    if if_version not in {None, row[0] if row else 0}:
        return None
    version = next_version(db, kind)
    db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", (kind, name, version, value))
    return version


def next_version(db: sqlite3.Connection, kind: str) -> int:
    db.execute(
        "INSERT INTO document_kinds VALUES (?, 1) ON CONFLICT DO UPDATE SET version = version + 1", (kind,)
    )
    return last_version(db, kind)


def last_version(db: sqlite3.Connection, kind: str) -> int:
    """The number of the last change of a kind."""
    row = db.execute("SELECT version FROM document_kinds WHERE kind = ?", (kind,)).fetchone()
    return int(row[0]) if row else 0


def get(db: sqlite3.Connection, kind: str, names: Sequence[str] | None) -> dict[str, Document]:
    rows = db.execute(
        "SELECT name, version, value FROM documents WHERE kind = ?"
        " AND (? IS NULL OR name IN (SELECT value FROM json_each(?)))",
        (kind, *[None if names is None else json.dumps(list(names))] * 2),
    )
    return {name: Document(version, value) for name, version, value in rows}


def drop(db: sqlite3.Connection, kind: str, names: Sequence[str]) -> None:
    db.executemany("DELETE FROM documents WHERE kind = ? AND name = ?", [(kind, name) for name in names])
    next_version(db, kind)


def mark(db: sqlite3.Connection, marks: Sequence[Mark]) -> list[str | None]:
    time = now()
    db.execute("DELETE FROM marks WHERE until <= ?", (time,))
    return [mark_one(db, one, time) for one in marks]


def mark_one(db: sqlite3.Connection, one: Mark, time: float) -> str | None:
    row = db.execute("SELECT holder FROM marks WHERE name = ?", (one.name,)).fetchone()
    if row is not None and row[0] != one.holder:
        return str(row[0])
    db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (one.name, one.holder, time + one.lease))
    return None


def unmark(db: sqlite3.Connection, marks: Sequence[Mark]) -> None:
    pairs = [(one.name, one.holder) for one in marks]
    db.executemany("DELETE FROM marks WHERE name = ? AND holder = ?", pairs)


def acquire(
    db: sqlite3.Connection, asks: Sequence[Sequence[Want]], holder: str, lease: float
) -> list[Wait | None]:
    time = now()
    db.execute("DELETE FROM permits WHERE until <= ?", (time,))
    db.execute("DELETE FROM rates WHERE next <= ?", (time,))
    return [ask(db, wants, holder, time, time + lease) for wants in asks]


def ask(db: sqlite3.Connection, wants: Sequence[Want], holder: str, time: float, until: float) -> Wait | None:
    in_the_way = [wait for want in wants if (wait := wait_for(db, want, time)) is not None]
    if in_the_way:
        return longest(in_the_way)
    for want in wants:
        if isinstance(want, Slot):
            row = (want.gate, want.member, holder, until)
            db.execute("INSERT OR REPLACE INTO permits VALUES (?, ?, ?, ?)", row)
        else:
            following = max(next_start(db, want.gate, time), time) + want.interval
            db.execute("INSERT OR REPLACE INTO rates VALUES (?, ?)", (want.gate, following))
    return None


def wait_for(db: sqlite3.Connection, want: Want, time: float) -> Wait | None:
    if isinstance(want, Pace):
        early = next_start(db, want.gate, time) - want.interval * (want.burst - 1) - time
        return Wait(want.gate, early) if early > 0 else None
    held, ours = db.execute(
        "SELECT count(*), ifnull(max(member = ?), 0) FROM permits WHERE gate = ?", (want.member, want.gate)
    ).fetchone()
    return None if ours or held < want.limit else Wait(want.gate, None)


def next_start(db: sqlite3.Connection, gate: str, time: float) -> float:
    row = db.execute("SELECT next FROM rates WHERE gate = ?", (gate,)).fetchone()
    return float(row[0]) if row else time


def release(db: sqlite3.Connection, slots: Sequence[Slot], holder: str) -> None:
    keys = [(slot.gate, slot.member, holder) for slot in slots]
    db.executemany("DELETE FROM permits WHERE gate = ? AND member = ? AND holder = ?", keys)


def keep(db: sqlite3.Connection, holder: str, lease: float) -> None:
    time = now()
    db.execute("UPDATE permits SET until = ? WHERE holder = ? AND until > ?", (time + lease, holder, time))
