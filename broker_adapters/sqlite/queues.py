"""The tables of the embedded broker and what is done to them: functions of a connection, inside a transaction.

`messages` holds what was sent; small tables beside it say where each message is, so that a claim or an
acknowledgement touches little: `ready` (in the order of delivery), `delayed` (by due time; `delayed_tasks`: of which tasks), `held` (by
consumer). A lease is one row per consumer: renewing is one update whatever it holds.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from taskq.clock import now
from taskq.seams.broker import ONCE, ONCE_SETTLED

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, rank INTEGER NOT NULL,
    deaths INTEGER NOT NULL DEFAULT 0, redelivered INTEGER NOT NULL DEFAULT 0, raw BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ready (
    queue TEXT NOT NULL, rank INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (queue, rank, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delayed (
    due REAL NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (due, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delayed_tasks (id INTEGER PRIMARY KEY, task TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS delayed_tasks_task ON delayed_tasks (task);
CREATE TABLE IF NOT EXISTS held (
    consumer INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (consumer, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS consumers (id INTEGER PRIMARY KEY, leased_until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, queue TEXT NOT NULL, reason TEXT NOT NULL,
    raw BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS dead_at ON dead (at);
CREATE TABLE IF NOT EXISTS revoked (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revoked_changes (id INTEGER PRIMARY KEY CHECK (id = 0), count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS once (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS once_until ON once (until)
"""

#: Rows of one INSERT: enough that the cost of a statement does not count.
CHUNK: Final = 100
SEPARATOR: Final = b"\x1e"
FIRST: Final = (
    "SELECT ready.rank, ready.id, deaths, redelivered, raw FROM ready CROSS JOIN messages USING (id)"
    " WHERE ready.queue = ? ORDER BY ready.rank, ready.id LIMIT ?"
)
PACKED: Final = (
    "json_group_array(json_array(rank, id, deaths, redelivered)), CAST(group_concat(raw, char(30)) AS BLOB)"
)
TOTAL: Final = f"SELECT ifnull(sum(length(raw)), 0) FROM ({FIRST})"  # noqa: S608 - constants
#: Messages of more bytes together are read one by one: as one row there would be three copies of them.
LARGE: Final = 1_000_000
#: Revoked ids that a claim brings along; of more those of each batch are asked for.
MOST_REVOKED: Final = 10_000
#: Due messages made ready by one claim, so that no transaction is long.
MOST_DUE: Final = 1000


class Outgoing(NamedTuple):
    """A message to be stored. `rank` orders a queue, the smallest first; `due` is None for at once.

    `once` is its name where it is to be stored a single time; `task` is the id of its task.
    """

    queue: str
    rank: int
    raw: bytes
    due: float | None
    once: str | None = None
    task: str = ""


class MessageRow(NamedTuple):
    """A claimed message."""

    rank: int
    id: int
    deaths: int
    redelivered: int
    raw: bytes


class Letter(NamedTuple):
    """A dead letter; its number is given when it is stored (0 until then)."""

    id: int
    at: float
    queue: str
    reason: str
    raw: bytes


def publish(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> None:
    if any(message.once is not None for message in messages):
        db.execute("DELETE FROM once WHERE until <= ?", (now(),))
        messages = [message for message in messages if message.once is None or is_first(db, message.once)]
    for start in range(0, len(messages), CHUNK):
        insert_chunk(db, messages[start : start + CHUNK])


def is_first(db: sqlite3.Connection, name: str) -> bool:
    """Whether nothing of that name was published before; from now on it was."""
    added = db.execute("INSERT OR IGNORE INTO once VALUES (?, ?)", (name, now() + ONCE))
    return added.rowcount == 1


def forget_soon(db: sqlite3.Connection, names: Sequence[str]) -> None:
    """The delivery that led to these was settled."""
    db.execute(
        "UPDATE once SET until = ? WHERE name IN (SELECT value FROM json_each(?))",
        (now() + ONCE_SETTLED, json.dumps(names)),
    )


def insert_chunk(db: sqlite3.Connection, messages: Sequence[Outgoing]) -> None:
    cells: list[Any] = []
    for queue, rank, raw, *_ in messages:
        cells += (queue, rank, raw)
    last = (
        db.execute(f"INSERT INTO messages (queue, rank, raw) {values(len(messages))}", cells).lastrowid or 0
    )
    first = last - len(messages) + 1  # one writer at a time: the numbers of one INSERT follow each other
    ready: list[Any] = []
    delayed: list[tuple[float, int, str]] = []
    for number, message in enumerate(messages, first):
        if message.due is None:
            ready += (message.queue, message.rank, number)
        else:
            delayed.append((message.due, number, message.task))
    if ready:
        db.execute(f"INSERT INTO ready {values(len(ready) // 3)}", ready)
    if delayed:
        delay(db, delayed)


def values(count: int) -> str:
    """Placeholders for so many rows of three cells."""
    return "VALUES " + ",".join(["(?,?,?)"] * count)


def delay(db: sqlite3.Connection, delayed: Sequence[tuple[float, int, str]]) -> None:
    """Keep these back until they are due: time, number, task."""
    db.executemany("INSERT INTO delayed VALUES (?, ?)", [(due, number) for due, number, _ in delayed])
    db.executemany(
        "INSERT OR REPLACE INTO delayed_tasks VALUES (?, ?)", [(number, task) for _, number, task in delayed]
    )


class Claimant(NamedTuple):
    """Who claims: its number, its lease in seconds, and up to which change it knows the revoked ids."""

    number: int
    lease: float
    change: int


class ClaimedRows(NamedTuple):
    """What a claim took, by queue, the claimant as it is now, and after a change all revoked ids with their ends.

    Very many revoked ids are not told (None): they are asked for by those who want to know.
    """

    claimant: Claimant
    rows: list[tuple[str, MessageRow]]
    revoked: dict[str, float] | None = None


def claim(
    db: sqlite3.Connection, claimant: Claimant, queues: Sequence[str], limit: int, max_bytes: int
) -> ClaimedRows:
    """Take up to `limit` messages of `max_bytes`, fairly from the queues, into a consumer's custody.

    The claimant has a new number if its lease was lost.
    """
    time = now()
    make_due_ready(db, time)
    take_back_lost(db, claimant.number, time)
    queues = [queue for queue in queues if any_ready(db, queue)]
    taken: list[tuple[str, MessageRow]] = []
    if not queues:
        return ClaimedRows(claimant, taken)
    consumer = keep_lease(db, claimant.number, claimant.lease)
    share = -(-limit // len(queues))
    for most in (share, limit):  # what one queue does not use of its share goes to the others
        for queue in queues:
            if (room := min(most, limit - len(taken))) > 0 and max_bytes > 0:
                rows = take(db, consumer, queue, room, max_bytes)
                max_bytes -= sum([len(row.raw) for row in rows])
                taken += [(queue, row) for row in rows]
    change, ids = revoked_since(db, claimant.change)
    return ClaimedRows(Claimant(consumer, claimant.lease, change), taken, ids)


def revoked_since(db: sqlite3.Connection, change: int) -> tuple[int, dict[str, float] | None]:
    """The last change of the revoked ids, and all of them if that is another one and they are not too many."""
    row = db.execute("SELECT count FROM revoked_changes").fetchone()
    last = row[0] if row else 0
    if last == change:
        return change, None
    ids = dict(db.execute("SELECT id, until FROM revoked LIMIT ?", (MOST_REVOKED + 1,)).fetchall())
    return last, ids if len(ids) <= MOST_REVOKED else None


def take(db: sqlite3.Connection, consumer: int, queue: str, limit: int, max_bytes: int) -> list[MessageRow]:
    rows = first_rows(db, queue, limit, max_bytes)
    if rows:
        until = (queue, rows[-1].rank, rows[-1].id)  # all up to the last one are ours: nobody else writes now
        db.execute(
            "INSERT INTO held SELECT ?, id FROM ready WHERE queue = ? AND (rank, id) <= (?, ?)",
            (consumer, *until),
        )
        db.execute("DELETE FROM ready WHERE queue = ? AND (rank, id) <= (?, ?)", until)
    return rows


def first_rows(db: sqlite3.Connection, queue: str, limit: int, max_bytes: int) -> list[MessageRow]:
    """The next messages of a queue, none more once they come to `max_bytes`; as one row where it can be.

    The interpreter is let go for each row, and while the event loop is busy it takes up to 5 ms to come back:
    200 rows would take a second. Envelopes are JSON, which has no control characters: the separator is safe.
    """
    (total,) = db.execute(TOTAL, (queue, limit)).fetchone()
    if total > min(max_bytes, LARGE):
        return one_by_one(db, queue, limit, max_bytes)
    small, raw = db.execute(f"SELECT {PACKED} FROM ({FIRST})", (queue, limit)).fetchone()  # noqa: S608 - constants
    numbers = json.loads(small)
    raws = raw.split(SEPARATOR) if raw is not None else []
    if len(numbers) == len(raws):
        return [MessageRow._make((*cells, one)) for cells, one in zip(numbers, raws, strict=True)]
    return one_by_one(db, queue, limit, max_bytes)


def one_by_one(db: sqlite3.Connection, queue: str, limit: int, max_bytes: int) -> list[MessageRow]:
    rows: list[MessageRow] = []
    for cells in db.execute(FIRST, (queue, limit)):
        rows.append(MessageRow._make(cells))
        max_bytes -= len(rows[-1].raw)
        if max_bytes <= 0:
            break
    return rows


def any_ready(db: sqlite3.Connection, queue: str) -> bool:
    return db.execute("SELECT 1 FROM ready WHERE queue = ? LIMIT 1", (queue,)).fetchone() is not None


def keep_lease(db: sqlite3.Connection, consumer: int, lease: float) -> int:
    """Renew the lease from now on. Returns the consumer's number: a new one, under which nothing is held, if it was lost.

    With the new number nothing that was begun under the old one can touch what others hold by now.
    """
    until = now() + lease
    if db.execute("UPDATE consumers SET leased_until = ? WHERE id = ?", (until, consumer)).rowcount:
        return consumer
    consumer = secrets.randbits(62)
    db.execute("INSERT INTO consumers VALUES (?, ?)", (consumer, until))
    return consumer


def keep_leases(db: sqlite3.Connection, consumers: Iterable[int], lease: float) -> set[int]:
    """Renew the leases of these consumers, for any connection. Returns those that were lost."""
    until = now() + lease
    renewal = "UPDATE consumers SET leased_until = ? WHERE id = ?"
    return {consumer for consumer in consumers if not db.execute(renewal, (until, consumer)).rowcount}


def make_due_ready(db: sqlite3.Connection, time: float) -> None:
    due = db.execute("SELECT due, id FROM delayed WHERE due <= ? ORDER BY due, id LIMIT ?", (time, MOST_DUE))
    if rows := due.fetchall():
        numbers = json.dumps([number for _, number in rows])
        db.execute(
            "INSERT INTO ready SELECT queue, rank, id FROM messages WHERE id IN (SELECT value FROM json_each(?))",
            (numbers,),
        )
        db.execute("DELETE FROM delayed WHERE (due, id) <= (?, ?)", rows[-1])
        db.execute("DELETE FROM delayed_tasks WHERE id IN (SELECT value FROM json_each(?))", (numbers,))


def take_back_lost(db: sqlite3.Connection, finder: int, time: float) -> None:
    """Give back what consumers held whose lease is over. The finder itself is alive, whatever its lease says."""
    lost = db.execute("SELECT id FROM consumers WHERE leased_until <= ? AND id <> ?", (time, finder))
    for (consumer,) in lost.fetchall():
        give_back(db, consumer, deaths=1)


def give_back(db: sqlite3.Connection, consumer: int, deaths: int = 0) -> None:
    """Everything the consumer holds goes to where it was in its queue; its number is not used any more."""
    (numbers,) = db.execute(
        "SELECT json_group_array(id) FROM held WHERE consumer = ?", (consumer,)
    ).fetchone()
    requeue(db, numbers, deaths)
    db.execute("DELETE FROM held WHERE consumer = ?", (consumer,))
    db.execute("DELETE FROM consumers WHERE id = ?", (consumer,))


def strike(db: sqlite3.Connection, number: int, count: int) -> None:
    db.execute("UPDATE messages SET deaths = deaths + ? WHERE id = ?", (count, number))


def requeue(db: sqlite3.Connection, numbers: str, deaths: int = 0) -> None:
    db.execute(
        "UPDATE messages SET redelivered = 1, deaths = max(deaths, ?) WHERE id IN (SELECT value FROM json_each(?))",
        (deaths, numbers),
    )
    db.execute(
        "INSERT INTO ready SELECT queue, rank, id FROM messages WHERE id IN (SELECT value FROM json_each(?))",
        (numbers,),
    )


class Settlement(NamedTuple):
    """How custody of messages ends: by number, with the reason of those that die. `keep` bounds the dead letters."""

    keep: tuple[float, int]
    ack: Sequence[int] = ()
    back: Sequence[int] = ()
    reject: Sequence[tuple[int, str]] = ()
    once: Sequence[str] = ()


def settle(db: sqlite3.Connection, consumer: int, ending: Settlement) -> None:
    """End custody; numbers that the consumer does not hold any more are passed over."""
    if ending.ack:
        drop(db, release(db, consumer, ending.ack))
    if ending.once:
        forget_soon(db, ending.once)
    if ending.back:
        requeue(db, release(db, consumer, ending.back))
    for number, reason in ending.reject:
        gone = release(db, consumer, [number])
        db.execute(
            "INSERT INTO dead (at, queue, reason, raw) SELECT ?, queue, ?, raw FROM messages WHERE id IN (SELECT value FROM json_each(?))",
            (now(), reason, gone),
        )
        drop(db, gone)
    if ending.reject:
        drop_dead(db, *ending.keep)


def park(db: sqlite3.Connection, consumer: int, parked: Iterable[tuple[float, int, str]]) -> None:
    for one in parked:
        number = one[1]
        if db.execute("DELETE FROM held WHERE consumer = ? AND id = ?", (consumer, number)).rowcount:
            db.execute("UPDATE messages SET redelivered = 1 WHERE id = ?", (number,))
            delay(db, [one])


def release(db: sqlite3.Connection, consumer: int, numbers: Sequence[int]) -> str:
    """Take these out of the consumer's custody; returns those it held, as a JSON array."""
    (held,) = db.execute(
        "SELECT json_group_array(id) FROM held WHERE consumer = ? AND id IN (SELECT value FROM json_each(?))",
        (consumer, json.dumps(numbers)),
    ).fetchone()
    db.execute(
        "DELETE FROM held WHERE consumer = ? AND id IN (SELECT value FROM json_each(?))", (consumer, held)
    )
    return str(held)


def drop(db: sqlite3.Connection, numbers: str) -> None:
    db.execute("DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?))", (numbers,))


def next_event(db: sqlite3.Connection, consumer: int, queues: Iterable[str]) -> float:
    """Seconds until something may be claimed without anyone telling; 0 when it can be now."""
    if any(any_ready(db, queue) for queue in queues):
        return 0.0
    (time,) = db.execute(
        "SELECT min(ifnull((SELECT min(due) FROM delayed), 1e18),"
        " ifnull((SELECT min(leased_until) FROM consumers WHERE id <> ?), 1e18))",
        (consumer,),
    ).fetchone()
    return max(0.0, float(time) - now())


def ready(db: sqlite3.Connection, queue: str) -> int:
    (count,) = db.execute("SELECT count(*) FROM ready WHERE queue = ?", (queue,)).fetchone()
    return int(count)


def size(db: sqlite3.Connection, queue: str) -> int:
    (delayed,) = db.execute(
        "SELECT count(*) FROM delayed CROSS JOIN messages USING (id) WHERE queue = ?", (queue,)
    ).fetchone()
    return ready(db, queue) + int(delayed)


def purge(db: sqlite3.Connection, queue: str) -> int:
    (numbers,) = db.execute(
        "SELECT json_group_array(id) FROM (SELECT id FROM ready WHERE queue = ?1 UNION ALL"
        " SELECT id FROM delayed CROSS JOIN messages USING (id) WHERE queue = ?1)",
        (queue,),
    ).fetchone()
    for table in ("delayed", "delayed_tasks"):
        db.execute(f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))", (numbers,))  # noqa: S608 - constants
    db.execute("DELETE FROM ready WHERE queue = ?", (queue,))
    return db.execute(
        "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?))", (numbers,)
    ).rowcount


def promote(db: sqlite3.Connection, queue: str) -> None:
    db.execute(
        "UPDATE delayed SET due = 0 WHERE id IN"
        " (SELECT id FROM delayed CROSS JOIN messages USING (id) WHERE queue = ?)",
        (queue,),
    )


def recall(db: sqlite3.Connection, task_ids: Sequence[str]) -> None:
    """Deliver the delayed messages of these tasks now."""
    of_these = "SELECT json_group_array(id) FROM delayed_tasks WHERE task IN (SELECT value FROM json_each(?))"
    (numbers,) = db.execute(of_these, (json.dumps(task_ids),)).fetchone()
    if numbers != "[]":
        db.execute("UPDATE delayed SET due = 0 WHERE id IN (SELECT value FROM json_each(?))", (numbers,))


def revoke(db: sqlite3.Connection, task_ids: Iterable[str], until: float, most: int) -> None:
    """Remember these until then, and no more than so many: those that end first make room."""
    db.execute("DELETE FROM revoked WHERE until <= ?", (now(),))
    db.executemany(
        "INSERT INTO revoked VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)",
        [(task_id, until) for task_id in task_ids],
    )
    db.execute(
        "DELETE FROM revoked WHERE id IN (SELECT id FROM revoked ORDER BY until DESC LIMIT -1 OFFSET ?)",
        (most,),
    )
    count_change(db)


def count_change(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO revoked_changes VALUES (0, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1")


def revoked(db: sqlite3.Connection, task_ids: Sequence[str]) -> list[str]:
    rows = db.execute(
        "SELECT id FROM revoked WHERE until > ? AND id IN (SELECT value FROM json_each(?))",
        (now(), json.dumps(task_ids)),
    )
    return [task_id for (task_id,) in rows]


def dead(db: sqlite3.Connection, limit: int) -> list[Letter]:
    rows = db.execute(
        "SELECT id, at, queue, reason, raw FROM dead ORDER BY at DESC, id DESC LIMIT ?", (limit,)
    )
    return list(map(Letter._make, rows))


def bury(db: sqlite3.Connection, letters: Sequence[Letter], keep: tuple[float, int]) -> None:
    """Store letters, the newest first. `keep` as for `drop_dead`."""
    rows = [letter[1:] for letter in letters[::-1]]
    db.executemany("INSERT INTO dead (at, queue, reason, raw) VALUES (?, ?, ?, ?)", rows)
    drop_dead(db, *keep)


def drop_dead(db: sqlite3.Connection, since: float, most: int) -> None:
    """Delete the letters from before `since`, and the oldest of more than `most`."""
    db.execute("DELETE FROM dead WHERE at < ?", (since,))
    (span,) = db.execute("SELECT ifnull(max(id) - min(id) + 1, 0) FROM dead").fetchone()
    if span > most:  # else there cannot be so many, and counting reads them all
        db.execute(
            "DELETE FROM dead WHERE id IN (SELECT id FROM dead ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?)",
            (most,),
        )


def revive(db: sqlite3.Connection, numbers: Sequence[int]) -> list[Letter]:
    asked = json.dumps(numbers)
    rows = db.execute(
        "SELECT id, at, queue, reason, raw FROM dead WHERE id IN (SELECT value FROM json_each(?))", (asked,)
    ).fetchall()
    db.execute("DELETE FROM dead WHERE id IN (SELECT value FROM json_each(?))", (asked,))
    return list(map(Letter._make, rows))
