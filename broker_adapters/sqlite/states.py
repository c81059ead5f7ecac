"""The tables of the embedded result store and what is done to them: functions of a connection, in a transaction.

`states` is a log: each state of each task is one row, and the present one is the last of its task. So saving is
one insert, and who watches reads what was added since, with nothing skipped. `seq` grows by commit, since one
writes at a time, and is never used twice.
"""

import json
import sqlite3
from collections.abc import Container, Sequence
from typing import Any, Final, NamedTuple

from taskq.clock import now
from taskq.states import FAILURE, REVOKED, SUCCESS

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS states (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, expires REAL NOT NULL, saved REAL NOT NULL,
    task_id TEXT NOT NULL, state TEXT NOT NULL, raw BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS states_task ON states (task_id);
CREATE TABLE IF NOT EXISTS groups (id TEXT PRIMARY KEY, expires REAL NOT NULL, raw BLOB NOT NULL)
"""

#: Rows of one INSERT: enough that the cost of a statement does not count.
CHUNK: Final = 100
#: Seconds that a state stays for those who watch after another one has followed it.
OVERTAKEN: Final = 600.0
#: The most rows read for watchers at a time.
MOST_CHANGES: Final = 5000


class StateRow(NamedTuple):
    """A state to be stored; the fields are the columns."""

    expires: float
    saved: float
    task_id: str
    state: str
    raw: bytes


class Change(NamedTuple):
    seq: int
    task_id: str
    raw: bytes


def save(db: sqlite3.Connection, states: Sequence[StateRow]) -> None:
    """Add these states, but none after a SUCCESS."""
    ids = json.dumps([state.task_id for state in states])
    (done,) = db.execute(
        "SELECT json_group_array(task_id) FROM states WHERE task_id IN (SELECT value FROM json_each(?))"
        " AND state = ? AND expires > ?",
        (ids, SUCCESS, now()),
    ).fetchone()
    kept = before_success(states, set(json.loads(done)))
    for start in range(0, len(kept), CHUNK):
        insert_chunk(db, kept[start : start + CHUNK])


def before_success(states: Sequence[StateRow], done: set[str]) -> list[StateRow]:
    kept = []
    for state in states:
        if state.task_id not in done:
            kept.append(state)
            if state.state == SUCCESS:
                done.add(state.task_id)
    return kept


def insert_chunk(db: sqlite3.Connection, states: Sequence[StateRow]) -> None:
    values = ",".join(["(?,?,?,?,?)"] * len(states))
    insert = f"INSERT INTO states (expires, saved, task_id, state, raw) VALUES {values}"  # noqa: S608 - nothing but placeholders
    cells: list[Any] = []
    for state in states:
        cells += state
    db.execute(insert, cells)


def clean(db: sqlite3.Connection, after: int, count: int) -> int:
    """Remove what has expired or was overtaken among the next `count` rows; returns where to go on (0: anew)."""
    time = now()
    last, found = db.execute(
        "SELECT ifnull(max(seq), 0), count(*) FROM (SELECT seq FROM states WHERE seq > ? ORDER BY seq LIMIT ?)",
        (after, count),
    ).fetchone()
    db.execute(
        "DELETE FROM states WHERE seq > ? AND seq <= ? AND (expires <= ? OR saved < ? AND state NOT IN (?, ?, ?)"
        " AND EXISTS (SELECT 1 FROM states AS next WHERE next.task_id = states.task_id AND next.seq > states.seq))",
        (after, last, time, time - OVERTAKEN, SUCCESS, FAILURE, REVOKED),
    )
    return int(last) if found == count else 0


def load(db: sqlite3.Connection, task_ids: Sequence[str]) -> dict[str, bytes]:
    rows = db.execute(
        "SELECT task_id, raw FROM states WHERE expires > ? AND seq IN (SELECT max(seq) FROM states"
        " WHERE task_id IN (SELECT value FROM json_each(?)) GROUP BY task_id)",
        (now(), json.dumps(task_ids)),
    )
    return dict(rows.fetchall())


def present(db: sqlite3.Connection, task_id: str) -> tuple[int, Change | None]:
    """How far the log goes, and the present state of a task."""
    row = db.execute(
        "SELECT seq, task_id, raw, expires FROM states WHERE task_id = ? ORDER BY seq DESC LIMIT 1",
        (task_id,),
    ).fetchone()
    (end,) = db.execute("SELECT ifnull(max(seq), 0) FROM states").fetchone()
    return end, Change(*row[:3]) if row is not None and row[3] > now() else None


def changes(db: sqlite3.Connection, after: int, watched: Container[str]) -> tuple[int, list[Change]]:
    """What was added for the watched tasks, and how far it was read."""
    # One row for all: the interpreter is let go for each, and a busy event loop gives it back late.
    end, added = db.execute(
        "SELECT max(seq), json_group_array(json_array(seq, task_id)) FROM"
        " (SELECT seq, task_id FROM states WHERE seq > ? ORDER BY seq LIMIT ?)",
        (after, MOST_CHANGES),
    ).fetchone()
    wanted = [seq for seq, task_id in json.loads(added) if task_id in watched]
    if not wanted:
        return end or after, []
    found = db.execute(
        "SELECT seq, task_id, raw FROM states WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
        (json.dumps(wanted),),
    ).fetchall()
    return end, list(map(Change._make, found))


def forget(db: sqlite3.Connection, task_ids: Sequence[str]) -> None:
    db.execute(
        "DELETE FROM states WHERE task_id IN (SELECT value FROM json_each(?))", (json.dumps(task_ids),)
    )


def save_group(db: sqlite3.Connection, group_id: str, expires: float, raw: bytes) -> None:
    db.execute("DELETE FROM groups WHERE expires <= ?", (now(),))
    db.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?)", (group_id, expires, raw))


def load_group(db: sqlite3.Connection, group_id: str) -> bytes | None:
    row = db.execute("SELECT raw FROM groups WHERE id = ? AND expires > ?", (group_id, now())).fetchone()
    return None if row is None else row[0]


def forget_group(db: sqlite3.Connection, group_id: str) -> None:
    db.execute("DELETE FROM groups WHERE id = ?", (group_id,))
