"""kill -9 at any moment leaves a sound file and loses no confirmed message; a full disk is told and got over."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

from taskq.errors import BrokerFull, StoreError
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.wire.envelope import loads
from taskq.wire.message import Message

#: Two processes are killed in each. 50 for a long run.
ROUNDS = int(os.environ.get("TASKQ_CRASH_ROUNDS", "12"))

WRITER = """
import asyncio, sys
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.wire.message import Message

async def main(url, first):
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    while True:
        batch = [Message({"id": str(n)}, b"x" * 300) for n in range(first, first + 7)]
        await broker.publish(batch)
        for message in batch:
            print(message.headers["id"], flush=True)
        first += 7

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

WORKER = """
import asyncio, sys
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.seams.store import StoreConfig, TaskResult, open_store

async def main(url):
    broker, store = open_broker(BrokerConfig(url, lease=0.2)), open_store(StoreConfig(url))
    await broker.open()
    await store.open()
    consumer = await broker.consume(["celery"], prefetch=20)
    while True:
        batch = await consumer.receive(20)
        await store.save([TaskResult(one.message.headers["id"], "SUCCESS", 1) for one in batch])
        await consumer.settle(ack=batch)
        print(len(batch), flush=True)

asyncio.run(main(sys.argv[1]))
"""


@contextmanager
def running(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(stream: IO[str] | None) -> list[str]:
    """The whole lines; the last one may have been cut."""
    assert stream is not None
    return [line.strip() for line in stream if line.endswith("\n")]


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    return [line.strip()]


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing_confirmed(tmp_path: Path) -> None:
    chance = random.Random(2026)
    path = tmp_path / "taskq.db"
    url = f"sqlite:///{path}?synchronous=normal"  # a kill is no power cut: the page cache survives it
    confirmed: set[str] = set()
    for number in range(ROUNDS):
        with running(WRITER, url, str(number * 1_000_000)) as writer, running(WORKER, url) as worker:
            told = first_line(writer)
            first_line(worker)
            for process in chance.sample([writer, worker], 2):
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.001, 0.03))
                process.kill()
            confirmed.update(told, lines(writer.stdout))
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            waiting = {loads(raw).headers["id"] for (raw,) in db.execute("SELECT raw FROM messages")}
            finished = {task_id for (task_id,) in db.execute("SELECT task_id FROM states")}
            assert confirmed <= waiting | finished
            placed = db.execute(
                "SELECT count(*) FROM (SELECT id FROM ready UNION ALL SELECT id FROM held UNION ALL"
                " SELECT id FROM delayed)"
            ).fetchone()
            assert placed == (len(waiting),)
    assert len(confirmed) > ROUNDS
    asyncio.run(finish(url, confirmed))


async def finish(url: str, confirmed: set[str]) -> None:
    """A worker that lives does the rest, what the killed ones held included."""
    broker, store = open_broker(BrokerConfig(url)), open_store(StoreConfig(url))
    await broker.open()
    await store.open()
    consumer = await broker.consume(["celery"], prefetch=1000)
    ids = sorted(confirmed)
    missing = {task_id for task_id, state in zip(ids, await store.load(ids), strict=True) if state is None}
    while missing:
        async with asyncio.timeout(10):
            batch = await consumer.receive(1000)
        done = [one.message.headers["id"] for one in batch]
        await store.save([TaskResult(task_id, "SUCCESS", 1) for task_id in done])
        await consumer.settle(ack=batch)
        missing.difference_update(done)
    await store.close()
    await broker.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", os.fspath(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", os.fspath(folder)], check=True)


async def test_a_full_disk_is_told_and_got_over(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk}/taskq.db"
    broker, store = open_broker(BrokerConfig(url)), open_store(StoreConfig(url))
    await broker.open()
    await store.open()
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    confirmed = 0

    async def fill() -> None:
        nonlocal confirmed
        while True:
            await broker.publish([Message({"n": confirmed}, b"x" * 20_000)])
            confirmed += 1

    with pytest.raises(BrokerFull, match=r"no space left on the disk of .*: make room"):
        await fill()
    with pytest.raises(StoreError, match="no space left"):
        await store.save([TaskResult(f"t{n}", "SUCCESS", "x" * 20_000) for n in range(100)])
    ballast.unlink()
    await broker.publish([Message({"n": confirmed}, b"x" * 20_000)])
    consumer = await broker.consume(["celery"], prefetch=1000)
    received: list[int] = []
    async with asyncio.timeout(10):
        while len(received) <= confirmed:
            batch = await consumer.receive(100)
            received += [delivery.message.headers["n"] for delivery in batch]
            await consumer.settle(ack=batch)
    assert received == list(range(confirmed + 1))
    assert confirmed > 0
    await store.close()
    await broker.close()
