"""One SQLite file that the broker and the result store of a process share: its thread, transactions and errors.

Why it is safe. The file is in WAL mode: a crash of the process loses no commit at all, and a power loss cuts the
log at some commit, never in the middle of one (WAL is prefix-consistent). What a client publishes is committed
with `synchronous=FULL`: confirmed means on disk. What a worker does afterwards (claim, settle, save) is
committed with `synchronous=NORMAL`: if power fails, the last of it is undone *together*, so that some work is
done again and none is lost. `?synchronous=normal` in the URL chooses that for publishing too.

Times (due, lease, expiry) are wall-clock seconds: all processes are on one host and share its clock. A network
file system is refused, because SQLite's locks and shared memory do not hold there.

All statements run in one daemon thread per file and process. Jobs that piled up share one transaction, and are
answered by one wake-up of their event loop.
"""

import asyncio
import errno
import logging
import os
import re
import shutil
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar, TypeVarTuple
from urllib.parse import parse_qsl

from taskq.broker_adapters.sqlite.wake import Announcer, wake_folder
from taskq.errors import ConfigError
from taskq.seams.retry import Outage

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Seconds to wait for another process's transaction: less than a call may take, so that its error says what it is.
BUSY_TIMEOUT: Final = 4.0
#: The most jobs in one transaction: bounds how long other processes wait.
MOST_JOBS: Final = 200
#: Pages in the log before they are moved into the file: 16 MB, so that bursts are not slowed by it.
CHECKPOINT_PAGES: Final = 4000

READ: Final = 0
WRITE: Final = 1
DURABLE: Final = 2

#: Where POSIX locks or shared memory cannot be trusted.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    (
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    )
)


class Failure(NamedTuple):
    """Why the file did not do what was asked: `full` is about space, `text` says what to do."""

    text: str
    full: bool


class Location(NamedTuple):
    """A parsed URL: sqlite:///relative.db, sqlite:////absolute.db, each with `?synchronous=normal|full`."""

    path: Path
    durable: bool


def locate(url: str) -> Location:
    """Read the URL of a file.

    Raises:
        ConfigError: it names no file, or an unknown option.
    """
    address, _, query = url.partition("?")
    name = address.removeprefix("sqlite:///")
    if ":memory:" in name:
        raise ConfigError(
            f"{url!r}: a database in memory is seen by one connection alone; for messages and results inside one"
            " process use memory://name"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "full").lower()
    if name == address or not name or options or synchronous not in {"full", "normal"}:
        raise ConfigError(
            f"{url!r} is no URL of a SQLite file: write sqlite:///relative.db or sqlite:////absolute.db, "
            "with ?synchronous=normal if publishing need not outlive a power cut"
        )
    return Location(Path(name).absolute(), synchronous == "full")


class Transaction(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    mode: int
    topic: str
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class Answer(NamedTuple):
    job: Transaction
    value: Any
    error: Exception | None


class SharedFile:
    """The connection and its thread; one per file and process, counted by its users."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        self.schemas: dict[str, None] = {}
        self._jobs: SimpleQueue[Transaction | None] = SimpleQueue()
        self._announcer = Announcer(wake_folder(path))
        self._opened: OpenedFile | None = None
        self._thread = threading.Thread(target=self._serve, name=f"sqlite {path.name}", daemon=True)
        self._thread.start()

    def submit(self, job: Transaction) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        self._jobs.put(None)

    def _serve(self) -> None:
        while True:
            first = self._jobs.get()
            pile = [first, *(self._jobs.get_nowait() for _ in range(min(self._jobs.qsize(), MOST_JOBS)))]
            if jobs := [job for job in pile if job is not None]:
                answer(self._together(jobs))
            if len(jobs) < len(pile):
                break
        if self._opened is not None:
            self._opened.db.close()
        self._announcer.close()

    def _together(self, jobs: Sequence[Transaction]) -> list[Answer]:
        """All in one transaction; if one of them fails, each in its own, so that none fails for another."""
        try:
            values = self._transaction(jobs)
        except Exception as error:  # noqa: BLE001 - it is handed to the one who waits
            if len(jobs) == 1:
                return [Answer(jobs[0], None, error)]
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                return self._without_lock(jobs, error)
            return [outcome for job in jobs for outcome in self._together([job])]
        for topic in {job.topic for job in jobs if job.topic}:
            self._tell(topic)
        return [Answer(job, value, None) for job, value in zip(jobs, values, strict=True)]

    def _without_lock(self, jobs: Sequence[Transaction], error: Exception) -> list[Answer]:
        """Each alone would wait as long again: all that write have failed. Reading needs no lock."""
        readers = [job for job in jobs if job.mode == READ]
        if len(readers) == len(jobs):
            return [Answer(job, None, error) for job in jobs]
        failed = [Answer(job, None, error) for job in jobs if job.mode != READ]
        return failed + (self._together(readers) if readers else [])

    def _tell(self, topic: str) -> None:
        try:
            self._announcer.tell(topic)
        except Exception:  # it is committed, and listeners look by themselves, too
            logger.exception("could not wake those who wait for %s in %s", topic, self.path)

    def _transaction(self, jobs: Sequence[Transaction]) -> list[Any]:
        mode = max(job.mode for job in jobs)
        db = self._current().connection(mode)
        db.execute("BEGIN" if mode == READ else "BEGIN IMMEDIATE")
        try:
            # Whoever gave up while another process had the file was told that it failed: it must not happen later.
            values = [None if job.future.cancelled() else job.function(db, *job.args) for job in jobs]
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return values

    def _current(self) -> "OpenedFile":
        """The file that lies at the path now: one that was deleted or replaced is let go."""
        if self._opened is not None and self._opened.is_elsewhere():
            logger.error(
                "%s was deleted or replaced while it was in use: what it held is lost to this process, which goes on"
                " with the file that is there now (stop all workers before a file is restored)",
                self.path,
            )
            opened, self._opened = self._opened, None
            opened.let_go()
        if self._opened is None:
            self._opened = OpenedFile(self.path, list(self.schemas))
        return self._opened


class OpenedFile:
    """A connection to what lay at the path when it was opened."""

    def __init__(self, path: Path, schemas: Sequence[str]) -> None:
        self.path = path
        self.db = connect(path)
        self._synchronous = WRITE
        try:
            for schema in schemas:
                create(self.db, schema)
            self._number = number_of(path)
            self._log = number_of(log_of(path))
        except BaseException:
            self.db.close()
            raise

    def connection(self, mode: int) -> sqlite3.Connection:
        """The connection, set up for a transaction of this mode."""
        if mode not in {READ, self._synchronous}:
            self.db.execute(f"PRAGMA synchronous={'FULL' if mode == DURABLE else 'NORMAL'}")
            self._synchronous = mode
        return self.db

    def is_elsewhere(self) -> bool:
        """Whether something else, or nothing, lies at the path by now."""
        return number_of(self.path) != self._number

    def let_go(self) -> None:
        """Close it, and take its log along: SQLite would read it into the file that lies there now."""
        if self._log is not None and number_of(log_of(self.path)) == self._log:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.db.close()


def number_of(path: Path) -> tuple[int, int] | None:
    """What tells this file from any other that lies or lay there; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def answer(outcomes: Sequence[Answer]) -> None:
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Answer]] = defaultdict(list)
    for outcome in outcomes:
        by_loop[outcome.job.loop].append(outcome)
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(resolve, own)
        except RuntimeError:  # its loop has ended: nobody waits there
            continue


def resolve(outcomes: Sequence[Answer]) -> None:
    for (_, _, _, _, _, future), value, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def make_folder(folder: Path) -> None:
    """The folder of a file, where it is missing. The default one, beside code, is for us alone and keeps out of git."""
    if folder.exists():
        return
    if folder.name != ".taskq":
        folder.mkdir(parents=True, exist_ok=True)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")


def connect(path: Path) -> sqlite3.Connection:
    make_folder(path.parent)
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit={CHECKPOINT_PAGES * 4096 * 4}")
    except BaseException:
        db.close()
        raise
    return db


_SHARED: dict[tuple[int, Path], SharedFile] = {}
_SHARED_LOCK = threading.Lock()


class SqliteFile:
    """An adapter's use of a file. `refuse` makes an error of its seam out of a `Failure`."""

    def __init__(self, url: str, schema: str, refuse: Callable[[Failure], Exception]) -> None:
        self.location = locate(url)
        self.wake_folder = wake_folder(self.location.path)
        self._url = url
        self._schema = schema
        self._refuse = refuse
        self._shared: SharedFile | None = None
        self._outage = Outage()

    async def open(self) -> None:
        """Create the folder, the file and the tables where they are missing."""
        path = self.location.path
        refuse_network(path, self._url)
        self._shared = share(path, self._schema)
        try:
            await self.run(create, self._schema)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            unshare(shared)

    async def run(
        self, function: Callable[[sqlite3.Connection, *Ts], T], *args: *Ts, mode: int = WRITE, topic: str = ""
    ) -> T:
        """Run it in a transaction (READ, WRITE or DURABLE), and tell those who listen to `topic` once committed.

        It may run again if what shared its transaction failed: it must do nothing but talk to the connection.
        """
        if self._shared is None:
            raise self._refuse(Failure(f"{self._url}: not open", full=False))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._shared.submit(Transaction(function, args, mode, topic, loop, future))
        try:
            done = await future
        except (sqlite3.Error, OSError) as error:
            raise self._refuse(explain(error, self._url, self.location.path)) from error
        self._outage.over()
        return done

    def tell_outage(self, error: Exception) -> None:
        """It could not be used just now: said once until it can be again."""
        self._outage.failed(logger, error)


def share(path: Path, schema: str) -> SharedFile:
    key = (os.getpid(), path)  # a forked child must not use its parent's connection
    with _SHARED_LOCK:
        shared = _SHARED.get(key) or SharedFile(path)
        _SHARED[key] = shared
        shared.users += 1
        shared.schemas[schema] = None
    return shared


def unshare(shared: SharedFile) -> None:
    with _SHARED_LOCK:
        shared.users -= 1
        if shared.users == 0:
            _SHARED.pop((os.getpid(), shared.path), None)
            shared.stop()


def create(db: sqlite3.Connection, schema: str) -> None:
    for statement in schema.split(";"):
        db.execute(statement)


def explain(error: Exception, url: str, path: Path) -> Failure:
    """What went wrong and what to do about it, in words."""
    name = getattr(error, "sqlite_errorname", "")
    other = _FOLDER if isinstance(error, OSError) else "{error}"
    kind = next((text for prefix, text in _EXPLANATIONS if name.startswith(prefix)), other)
    full = name == "SQLITE_FULL" or getattr(error, "errno", None) == errno.ENOSPC
    if name.startswith("SQLITE_IOERR") and no_space(path.parent):
        full = True
    text = _FULL if full else kind
    return Failure(f"{url}: {text.format(error=error, path=path, folder=path.parent)}", full)


def no_space(folder: Path) -> bool:
    """Whether the disk has no room for a page of the log; SQLite calls that an I/O error in some places."""
    try:
        return shutil.disk_usage(folder).free < 64 * 1024
    except OSError:
        return False


_FULL: Final = "no space left on the disk of {folder}: make room, then it goes on by itself ({error})"
_FOLDER: Final = "its folder {folder} must exist or be made, and be writable ({error})"
_EXPLANATIONS: Final = (
    (
        "SQLITE_BUSY",
        f"another process has kept {{path}} locked for more than {BUSY_TIMEOUT:.0f} s ({{error}})",
    ),
    ("SQLITE_READONLY", "{path} may not be written by this user: check its owner and its folder's ({error})"),
    ("SQLITE_CANTOPEN", "{path} cannot be opened: check that its folder may be written ({error})"),
    ("SQLITE_PERM", "{path} cannot be opened: check its owner and mode ({error})"),
    ("SQLITE_NOTADB", "{path} is not a SQLite database: choose another file ({error})"),
    ("SQLITE_CORRUPT", "{path} is damaged: stop all workers, and restore it or move it away ({error})"),
    ("SQLITE_IOERR", "{path} could not be read or written: look at the disk ({error})"),
)


def refuse_network(path: Path, url: str) -> None:
    """Raises ConfigError when the file would lie on a network file system (as far as /proc/mounts tells)."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return
    kind = file_system(os.path.realpath(path), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"{url}: {path} is on a network file system ({kind}), where SQLite's locks do not hold: "
            "use a local disk, or a Redis or RabbitMQ broker"
        )


def file_system(path: str, mounts: str) -> str:
    """The type of the file system that holds the path: that of the longest mount point above it."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        if len(point) >= len(best) and f"{path}/".startswith(f"{point.rstrip('/')}/"):
            best, kind = point, found
    return kind
