import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from taskq.broker_adapters.sqlite import file as sqlite_file
from taskq.broker_adapters.sqlite.file import DURABLE, READ, Failure, SqliteFile, explain, file_system, locate
from taskq.errors import ConfigError, OperationalError
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.wire.message import Message

SCHEMA = "CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY)"


class Refused(Exception):
    pass


def refuse(failure: Failure) -> Refused:
    return Refused(failure.text)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteFile]:
    one = SqliteFile(f"sqlite:///{tmp_path}/deep/er/x.db", SCHEMA, refuse)
    await one.open()
    yield one
    one.close()


def insert(db: sqlite3.Connection, x: int) -> int:
    db.execute("INSERT INTO t VALUES (?)", (x,))
    return x


def count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM t").fetchone()[0])


async def test_the_default_folder_keeps_itself_out_of_git(tmp_path: Path) -> None:
    for folder in (".taskq", "mine"):
        one = SqliteFile(f"sqlite:///{tmp_path}/{folder}/x.db", SCHEMA, refuse)
        await one.open()
        one.close()
    assert texts(tmp_path, "*/.gitignore") == ["*\n"]


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do() -> None:
    failure = explain(
        PermissionError(13, "Permission denied"), "sqlite:///x.db", Path("/srv/app/.taskq/x.db")
    )
    assert "its folder /srv/app/.taskq must exist or be made, and be writable" in failure.text


def texts(folder: Path, pattern: str) -> list[str]:
    return [path.read_text() for path in folder.glob(pattern)]


# == URLs


@pytest.mark.parametrize(
    ("url", "path", "durable"),
    [
        ("sqlite:////tmp/x.db", "/tmp/x.db", True),
        ("sqlite:///.taskq/taskq.db", f"{Path.cwd()}/.taskq/taskq.db", True),
        ("sqlite:///x.db?synchronous=normal", f"{Path.cwd()}/x.db", False),
        ("sqlite:///x.db?synchronous=FULL", f"{Path.cwd()}/x.db", True),
    ],
)
def test_locate(url: str, path: str, durable: bool) -> None:  # noqa: FBT001 - a parametrised value
    assert locate(url) == (Path(path), durable)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://x.db",
        "sqlite:///x?synchronous=off",
        "sqlite:///x?mode=ro",
        "x.db",
    ],
)
def test_locate_refuses_what_names_no_file(url: str) -> None:
    with pytest.raises(ConfigError, match=r"write sqlite:///relative\.db or sqlite:////absolute\.db"):
        locate(url)


# == transactions


async def test_jobs_that_pile_up_share_a_transaction_and_none_fails_for_another(file: SqliteFile) -> None:
    await file.run(insert, 3)
    jobs = [file.run(insert, x) for x in range(6)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [x for x in results if not isinstance(x, Refused)] == [0, 1, 2, 4, 5]
    assert isinstance(results[3], Refused)
    assert await file.run(count, mode=READ) == 6


async def test_publishing_is_on_disk_and_the_rest_is_not_waited_for(file: SqliteFile) -> None:
    def synchronous(db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA synchronous").fetchone()[0])

    assert [await file.run(synchronous), await file.run(synchronous, mode=DURABLE)] == [1, 2]
    assert await file.run(synchronous, mode=READ) == 2
    assert await file.run(synchronous) == 1


async def test_an_error_of_another_kind_reaches_its_caller(file: SqliteFile) -> None:
    def broken(db: sqlite3.Connection) -> int:
        return insert(db, 1) // 0

    with pytest.raises(ZeroDivisionError):
        await file.run(broken)
    assert await file.run(count) == 0


async def test_a_caller_that_gives_up_does_not_stop_the_others(file: SqliteFile) -> None:
    """And what was given up while another process had the file does not happen later, when it has been reported as failed."""
    with closing(sqlite3.connect(file.location.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first, second = (asyncio.ensure_future(file.run(insert, x)) for x in (1, 2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        other.execute("ROLLBACK")
    assert await second == 2
    assert await file.run(count) == 1


async def test_users_of_one_file_share_its_thread(file: SqliteFile) -> None:
    second = SqliteFile(f"sqlite:///{file.location.path}", SCHEMA, refuse)
    await second.open()
    assert second._shared is file._shared
    second.close()
    second.close()
    assert await file.run(insert, 1) == 1


async def test_what_is_closed_says_so(tmp_path: Path) -> None:
    file = SqliteFile(f"sqlite:///{tmp_path}/x.db", SCHEMA, refuse)
    with pytest.raises(Refused, match="not open"):
        await file.run(count)


# == errors


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("something else, longer than the header of a database " * 10)
    broker = open_broker(BrokerConfig(f"sqlite:///{path}"))
    with pytest.raises(OperationalError, match="is not a SQLite database: choose another file"):
        await broker.open()


async def test_a_locked_file_says_so_and_is_got_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.05)
    broker = open_broker(BrokerConfig(f"sqlite:///{tmp_path}/x.db"))
    await broker.open()
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match=r"another process has kept .* locked"):
            await broker.publish([Message({}, b"")])
        assert await broker.size("celery") == 0
        other.execute("ROLLBACK")
    await broker.publish([Message({}, b"")])
    assert await broker.size("celery") == 1
    await broker.close()


async def test_all_that_wait_for_a_lock_wait_once_and_who_reads_does_not_fail(
    file: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[int] = []
    assert file._shared is not None
    transaction = file._shared._transaction

    def counted(jobs: Sequence[sqlite_file.Transaction]) -> list[object]:
        began.append(len(jobs))
        return transaction(jobs)

    monkeypatch.setattr(file._shared, "_transaction", counted)
    await file.run(lambda db: db.execute("PRAGMA busy_timeout=50").fetchall(), mode=READ)
    with closing(sqlite3.connect(file.location.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        jobs = [file.run(insert, x) for x in range(50)]
        found, *results = await asyncio.gather(file.run(count, mode=READ), *jobs, return_exceptions=True)
        other.execute("ROLLBACK")
    assert found == 0
    assert all("another process has kept" in str(error) for error in results)
    assert len(began) <= 5  # the first alone perhaps, the others together, and those that read
    assert await file.run(insert, 1) == 1


async def test_a_wake_that_fails_ends_nothing(
    file: SqliteFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(topic: str) -> None:
        raise ZeroDivisionError(topic)

    assert file._shared is not None
    monkeypatch.setattr(file._shared._announcer, "tell", broken)
    for x in range(2):
        assert await asyncio.wait_for(file.run(insert, x, topic="t"), 10) == x
    assert "could not wake those who wait for t" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_locked_file_does_not_end_receiving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.05)
    broker = open_broker(BrokerConfig(f"sqlite:///{tmp_path}/x.db"))
    await broker.open()
    await broker.publish([Message({"n": n}, b"") for n in range(2)])
    consumer = await broker.consume(["celery"], prefetch=5)
    (first,) = await consumer.receive(1)
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(consumer.receive(1))
        with pytest.raises(OperationalError, match="locked"):
            await consumer.settle(ack=[first])
        assert not waiting.done()
        other.execute("ROLLBACK")
    assert [delivery.message.headers["n"] for delivery in await waiting] == [1]
    await consumer.settle(ack=[first])
    await consumer.close()
    assert await broker.size("celery") == 1
    await broker.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SQLITE_FULL", "no space left"),
        ("SQLITE_BUSY_SNAPSHOT", "locked"),
        ("SQLITE_READONLY", "may not be written"),
        ("SQLITE_CANTOPEN", "its folder may be written"),
        ("SQLITE_PERM", "owner and mode"),
        ("SQLITE_CORRUPT", "is damaged"),
        ("SQLITE_IOERR_READ", "look at the disk"),
        ("SQLITE_MISUSE", "oh"),
    ],
)
def test_explain_says_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    error = sqlite3.OperationalError("oh")
    error.sqlite_errorname = name
    failure = explain(error, "sqlite:///x.db", tmp_path / "x.db")
    assert words in failure.text
    assert failure.text.startswith("sqlite:///x.db: ")
    assert failure.full is (name == "SQLITE_FULL")


def test_an_input_output_error_on_a_full_disk_is_about_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    monkeypatch.setattr(sqlite_file, "no_space", lambda _: True)
    assert explain(error, "u", tmp_path / "x.db").full
    assert explain(OSError(28, "No space left on device"), "u", tmp_path / "x.db").full
    monkeypatch.undo()
    assert not explain(error, "u", Path("/nowhere/at/all/x.db")).full


MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/export /mnt/with\\040space nfs4 rw 0 0
//host/share /mnt/with\\040space/inner cifs rw 0 0
user@host: /home/u/far fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/x.db", "ext4"),
        ("/dev/shm/x.db", "tmpfs"),
        ("/dev/shmoo/x.db", "ext4"),
        ("/mnt/with space/x.db", "nfs4"),
        ("/mnt/with space/inner/a/x.db", "cifs"),
        ("/home/u/far/x.db", "fuse.sshfs"),
    ],
)
def test_file_system(path: str, kind: str) -> None:
    assert file_system(path, MOUNTS) == kind


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "file_system", lambda *_: "nfs4")
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*use a local disk"):
        await open_broker(BrokerConfig(f"sqlite:///{tmp_path}/x.db")).open()
    assert not (tmp_path / "x.db").exists()


# == a child process that was forked


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_gets_a_connection_of_its_own(file: SqliteFile) -> None:
    pid = os.fork()
    if pid == 0:
        shared = sqlite_file.share(file.location.path, "")
        os._exit(0 if shared is not file._shared else 1)
    assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0


# == bounds


async def test_messages_far_in_the_future_are_held_back_by_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    due = time.time() + 3600
    await broker.publish([Message({"n": n}, b"x", due=due) for n in range(10_000)])
    consumer = await broker.consume(["celery"], prefetch=100)
    await broker.publish([Message({"n": -1}, b"x")])
    assert [one.message.headers["n"] for one in await consumer.receive(100)] == [-1]
    await broker.close()
    again = open_broker(BrokerConfig(url))
    await again.open()
    assert await again.size("celery") == 10_001
    await again.close()


# == a file that is deleted or replaced under its users


async def test_a_deleted_file_is_made_again(
    file: SqliteFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await file.run(insert, 1)
    file.location.path.unlink()
    assert await file.run(insert, 2) == 2
    assert await file.run(count) == 1
    assert caplog.text.count("was deleted or replaced while it was in use") == 1
    with closing(sqlite3.connect(file.location.path)) as other:
        assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)


async def test_a_restored_file_is_read_without_the_log_of_the_one_before(
    file: SqliteFile, tmp_path: Path
) -> None:
    await file.run(insert, 1)
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(file.location.path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    for x in range(2, 50):
        await file.run(insert, x)
    backup.replace(file.location.path)
    assert await file.run(count) == 1
    await file.run(insert, 7)
    file.close()
    with closing(sqlite3.connect(file.location.path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert other.execute("SELECT count(*) FROM t").fetchone() == (2,)


async def test_a_worker_goes_on_with_a_replaced_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    consumer = await broker.consume(["celery"], prefetch=5)
    await broker.publish([Message({"n": 1}, b"")])
    (held,) = await consumer.receive(1)
    waiting = asyncio.ensure_future(consumer.receive(1))
    (tmp_path / "x.db").unlink()
    other = open_broker(BrokerConfig(url))
    await other.open()
    await other.publish([Message({"n": 2}, b"")])
    async with asyncio.timeout(5):
        (new,) = await waiting
    assert new.message.headers["n"] == 2
    assert list(await consumer.renew([held, new])) == [held]
    await consumer.settle(ack=[held, new])
    await other.close()
    await broker.close()


# == what lies where


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite:///file::memory:?cache=shared"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="memory://name"):
        open_broker(BrokerConfig(url))


async def test_the_default_folder_is_for_us_alone(tmp_path: Path) -> None:
    for folder, mode in ((".taskq", 0o700), ("shared", 0o755)):
        broker = open_broker(BrokerConfig(f"sqlite:///{tmp_path}/{folder}/taskq.db"))
        await broker.open()
        await broker.close()
        assert (tmp_path / folder).stat().st_mode & 0o777 == mode
    assert (tmp_path / ".taskq" / ".gitignore").read_text() == "*\n"
