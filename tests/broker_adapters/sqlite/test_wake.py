import asyncio
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from taskq.broker_adapters.sqlite.store import SqliteStore
from taskq.broker_adapters.sqlite.wake import (
    Announcer,
    WakeSocket,
    is_ours,
    make_ours,
    runtime_folder,
    wake_folder,
)
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.seams.store import StoreConfig, TaskResult
from taskq.states import SUCCESS
from tests.polling import eventually


@pytest.fixture
def announcer(tmp_path: Path) -> Announcer:
    return Announcer(tmp_path / "wake")


async def test_those_who_listen_to_the_topic_are_told(tmp_path: Path, announcer: Announcer) -> None:
    heard: list[str] = []
    announcer.tell("messages")  # nobody yet
    listeners = [
        WakeSocket(tmp_path / "wake", "messages", lambda: heard.append("m1")),
        WakeSocket(tmp_path / "wake", "messages", lambda: heard.append("m2")),
        WakeSocket(tmp_path / "wake", "results", lambda: heard.append("r")),
    ]
    announcer.tell("messages")
    await eventually(lambda: sorted(heard) == ["m1", "m2"])
    for listener in listeners:
        listener.close()
    assert not list((tmp_path / "wake").iterdir())
    announcer.close()


async def test_sockets_of_the_dead_are_removed(tmp_path: Path, announcer: Announcer) -> None:
    (tmp_path / "wake").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(os.fspath(tmp_path / "wake" / "messages-dead"))
    announcer.tell("messages")
    assert not list((tmp_path / "wake").iterdir())
    announcer.close()


async def test_a_socket_of_the_dead_that_may_not_be_removed_stays(
    tmp_path: Path, announcer: Announcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wake").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(os.fspath(tmp_path / "wake" / "messages-dead"))

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(
        Path, "unlink", refuse
    )  # the sticky bit: root, as whom tests may run, is not stopped by it
    announcer.tell("messages")
    announcer.close()
    assert list((tmp_path / "wake").iterdir())


async def test_without_file_handles_results_still_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(StoreConfig(f"sqlite:///{tmp_path}/x.db"))
    await store.open()

    async def last() -> object:
        return [state async for state in store.watch("t")][-1].value

    with monkeypatch.context() as context:
        context.setattr("taskq.broker_adapters.sqlite.wake.socket.socket", no_handles)
        waiting = asyncio.create_task(last())
        await eventually(lambda: store.feed.watchers("t") and store.feed._reading is not None)
        await asyncio.sleep(0)
    await store.save([TaskResult("t", SUCCESS, 7)])
    async with asyncio.timeout(10):
        assert await waiting == 7
    await store.close()


def no_handles(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_a_listener_that_does_not_read_holds_nobody_up(tmp_path: Path, announcer: Announcer) -> None:
    heard: list[int] = []
    listener = WakeSocket(tmp_path / "wake", "messages", lambda: heard.append(1))
    for _ in range(2000):
        announcer.tell("messages")
    await eventually(lambda: bool(heard))
    listener.close()
    announcer.close()


def test_what_is_no_socket_is_never_removed(tmp_path: Path, announcer: Announcer) -> None:
    (tmp_path / "wake").mkdir()
    (tmp_path / "wake" / "messages-notes.txt").write_text("mine")
    announcer.tell("messages")
    announcer.close()
    assert (tmp_path / "wake" / "messages-notes.txt").read_text() == "mine"


async def test_a_folder_into_which_others_may_write_is_not_used(tmp_path: Path, announcer: Announcer) -> None:
    (tmp_path / "wake").mkdir()
    (tmp_path / "wake").chmod(0o777)
    heard: list[int] = []
    listener = WakeSocket(tmp_path / "wake", "messages", lambda: heard.append(1))
    assert not list((tmp_path / "wake").iterdir())
    announcer.tell("messages")
    listener.close()
    announcer.close()


def test_a_link_in_the_place_of_our_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "wake").symlink_to(tmp_path / "theirs")
    assert not is_ours(tmp_path / "wake")
    assert is_ours(tmp_path / "theirs")
    with pytest.raises(OSError, match=r"exists|not ours"):
        make_ours(tmp_path / "wake")


def test_our_runtime_folder_is_not_one_that_somebody_else_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))
    runtime = runtime_folder()
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(PermissionError, match="not ours alone"):
        make_ours(runtime / "x-wake")
    runtime.chmod(0o700)
    make_ours(runtime / "x-wake")
    assert (runtime / "x-wake").stat().st_mode & 0o777 == 0o700


def test_the_folder_of_a_long_path_is_elsewhere_and_the_same_for_all(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100) / "taskq.db"
    assert len(os.fspath(wake_folder(long))) < 64
    assert wake_folder(long) == wake_folder(Path(os.path.relpath(long)).absolute())
    assert wake_folder(long) != wake_folder(long.with_name("other.db"))
    assert wake_folder(Path("/a/taskq.db")) == Path("/a/taskq.db-wake")


async def test_without_sockets_the_regular_look_finds_messages(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    (tmp_path / "x.db-wake").write_text("in the way")
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    consumer = await broker.consume(["celery"], prefetch=1)
    waiting = asyncio.ensure_future(consumer.receive(1))
    publish = (
        "import asyncio, sys\n"
        "from taskq.seams.broker import BrokerConfig, open_broker\n"
        "from taskq.wire.message import Message\n"
        "async def main():\n"
        "    broker = open_broker(BrokerConfig(sys.argv[1]))\n"
        "    await broker.open()\n"
        "    await broker.publish([Message({}, b'')])\n"
        "asyncio.run(main())\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", publish, url], check=True)
    async with asyncio.timeout(20):
        assert len(await waiting) == 1
    await broker.close()
