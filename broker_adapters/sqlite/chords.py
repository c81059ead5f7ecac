"""Chords in the embedded result store: functions of a connection, in a transaction.

`chords` has one row per chord, `parts` one per part that has returned, `chord_growth` one per part that was added
while the chord ran. A chord that has ended leaves its row until it expires, so that late parts are told from new ones.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from taskq.clock import now
from taskq.seams.store import CHORD_CLAIM, Claimed
from taskq.states import SUCCESS

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS chords (
    id TEXT PRIMARY KEY, expires REAL NOT NULL, size INTEGER, returned INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, ended INTEGER NOT NULL DEFAULT 0,
    claimant TEXT NOT NULL DEFAULT '', claimed_until REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chords_expire ON chords (expires);
CREATE TABLE IF NOT EXISTS parts (
    chord TEXT NOT NULL, place REAL NOT NULL, task_id TEXT NOT NULL, raw BLOB NOT NULL,
    PRIMARY KEY (chord, place, task_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chord_growth (
    chord TEXT NOT NULL, task_id TEXT NOT NULL, PRIMARY KEY (chord, task_id)) WITHOUT ROWID
"""

#: Where a part without an index stands: behind all others, as Celery's "+inf".
LAST: Final = 1e300


class StoredPart(NamedTuple):
    """A part that returns; `place` orders the parts of a chord."""

    chord: str
    place: float
    task_id: str
    raw: bytes
    state: str


def begin(db: sqlite3.Connection, sizes: Mapping[str, int], expires: float) -> None:
    drop_expired(db)
    db.executemany(
        "INSERT INTO chords (id, expires, size) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " expires = excluded.expires, size = ifnull(size, excluded.size)",
        [(group_id, expires, size) for group_id, size in sizes.items()],
    )


def grow(db: sqlite3.Connection, group_id: str, task_id: str, expires: float) -> None:
    keep(db, group_id, expires)
    db.execute("INSERT OR IGNORE INTO chord_growth VALUES (?, ?)", (group_id, task_id))


def keep(db: sqlite3.Connection, group_id: str, expires: float) -> None:
    """Have a row for the chord, which may not have begun."""
    db.execute(
        "INSERT INTO chords (id, expires) VALUES (?, ?)"
        " ON CONFLICT (id) DO UPDATE SET expires = excluded.expires",
        (group_id, expires),
    )


def join(db: sqlite3.Connection, part: StoredPart, expires: float) -> list[bytes] | Claimed | None:
    """Add a part; all parts in order, for the one who completes the chord. See `ResultStore.join`."""
    chord, place, task_id, raw, state = part
    keep(db, chord, expires)
    if db.execute("SELECT 1 FROM chords WHERE id = ? AND ended", (chord,)).fetchone() is not None:
        return None
    added = db.execute("INSERT OR IGNORE INTO parts VALUES (?, ?, ?, ?)", (chord, place, task_id, raw))
    db.execute(
        "UPDATE chords SET returned = returned + ?, failed = failed OR ? WHERE id = ?",
        (added.rowcount, added.rowcount and state != SUCCESS, chord),
    )
    complete, claimant, claimed_until = db.execute(
        "SELECT size IS NOT NULL AND (failed OR returned >= size +"
        " (SELECT count(*) FROM chord_growth WHERE chord = id)), claimant, claimed_until FROM chords WHERE id = ?",
        (chord,),
    ).fetchone()
    if not complete:
        return None
    name, time = f"{task_id}:{place}", now()
    if claimed_until > time:
        return Claimed.BY_ITSELF if claimant == name else None
    db.execute(
        "UPDATE chords SET claimant = ?, claimed_until = ? WHERE id = ?", (name, time + CHORD_CLAIM, chord)
    )
    rows = db.execute("SELECT raw FROM parts WHERE chord = ? ORDER BY place", (chord,))
    return [row[0] for row in rows]


def join_many(
    db: sqlite3.Connection, parts: Iterable[StoredPart], expires: float
) -> list[list[bytes] | Claimed | None]:
    return [join(db, part, expires) for part in parts]


def end(db: sqlite3.Connection, group_ids: Iterable[str], expires: float) -> None:
    for group_id in group_ids:
        keep(db, group_id, expires)
        db.execute("UPDATE chords SET ended = 1 WHERE id = ?", (group_id,))
        drop_parts(db, group_id)


def drop_expired(db: sqlite3.Connection) -> None:
    for (group_id,) in db.execute("SELECT id FROM chords WHERE expires <= ? LIMIT 100", (now(),)).fetchall():
        drop_parts(db, group_id)
        db.execute("DELETE FROM chords WHERE id = ?", (group_id,))


def drop_parts(db: sqlite3.Connection, group_id: str) -> None:
    db.execute("DELETE FROM parts WHERE chord = ?", (group_id,))
    db.execute("DELETE FROM chord_growth WHERE chord = ?", (group_id,))
