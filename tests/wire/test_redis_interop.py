"""Redis shared with the real Celery, both ways, also when one side is killed (wire-format.md 2, 4, 13.8)."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import pytest
from celery import Celery
from kombu.entity import Exchange

from taskq.seams.broker import Broker, BrokerConfig, Consumer, Queue, open_broker
from taskq.seams.store import ResultStore, StoreConfig, TaskResult, open_store
from taskq.states import FAILURE, STARTED, SUCCESS
from taskq.wire.message import Delivery, Message
from tests.polling import eventually
from tests.servers import RedisServer, redis_server

pytestmark = [pytest.mark.slow]

VISIBILITY = 2.0
OPTIONS = {
    "visibility_timeout": VISIBILITY,
    # Celery looks for lost messages every 100 s by default.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}

TASKS = """
import os, time
from celery import Celery
from kombu import Exchange, Queue
from kombu.common import Broadcast
import redis

url = os.environ["INTEROP_URL"]
app = Celery("interop", broker=url, backend=url)
app.conf.update(
    broker_transport_options={options!r},
    worker_prefetch_multiplier=4, task_acks_late=True, result_expires=600,
    task_queues=[
        Queue("celery", Exchange("celery"), "celery"),
        Queue("news", Exchange("press", type="topic"), "news.#"),
        Broadcast("shout"),
    ],
)
done = redis.Redis.from_url(url)

@app.task(name="interop.add")
def add(x, y):
    return x + y

@app.task(name="interop.fail")
def fail():
    raise ValueError("boom")

@app.task(name="interop.note", bind=True)
def note(self, n, seconds=0.0):
    done.rpush("started", n)
    done.hsetnx("where", "first", self.request.hostname)
    time.sleep(seconds)
    done.rpush("done", n)
""".replace("{options!r}", repr(OPTIONS))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


@pytest.fixture
def celery(server: RedisServer) -> Iterator[Celery]:
    app = Celery("client", broker=server.url, backend=server.url)
    app.conf.update(broker_transport_options=OPTIONS, task_queues=None)
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.close()


class Worker(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def celery_worker(server: RedisServer, folder: Path, queues: str = "celery") -> Iterator[Worker]:
    (folder / "interop_tasks.py").write_text(TASKS)
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "interop_tasks",
        "worker",
        "--pool",
        "solo",
        "-Q",
        queues,
    ]
    command += ["--without-gossip", "--without-mingle", "-l", "WARNING", "-n", f"{uuid.uuid4().hex}@here"]
    environment = os.environ | {
        "INTEROP_URL": server.url,
        "PYTHONPATH": str(folder),
        "PYTHONWARNINGS": "ignore",
    }
    with (folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield Worker(command[-1], worker)
    finally:
        worker.kill()
        worker.wait()


Open = Callable[..., Any]


@pytest.fixture
async def connect(server: RedisServer) -> AsyncIterator[Open]:
    brokers: list[Broker] = []

    async def open_one(
        *, lease: float = 30.0, queue: Callable[[str], Queue] = Queue, **options: Any
    ) -> Broker:
        broker = open_broker(BrokerConfig(server.url, lease=lease, queue=queue, options=OPTIONS | options))
        await broker.open()
        brokers.append(broker)
        return broker

    yield open_one
    for broker in brokers:
        await broker.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[ResultStore]:
    opened = open_store(StoreConfig(server.url, expires=600))
    await opened.open()
    yield opened
    await opened.close()


def call(task: str, *args: Any, **fields: Any) -> Message:
    """A message as protocol 2 wants it, with no more than it needs (wire-format.md 1.3, 1.6)."""
    task_id = str(uuid.uuid4())
    headers = {
        "lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
        "eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "argsrepr": repr(args),
        "kwargsrepr": "{}", "origin": "taskq@test",
    }  # fmt: skip
    body = f'[{list(args)}, {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]'
    return Message(headers, body.encode(), correlation_id=task_id, **fields)


async def take(consumer: Consumer, count: int, *, within: float = 20.0) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(taken) < count:
            taken += await consumer.receive(count - len(taken))
    return taken


async def final(store: ResultStore, task_id: str) -> TaskResult:
    async with asyncio.timeout(20):
        states = [state async for state in store.watch(task_id)]
    return states[-1]


def listed(server: RedisServer, key: str) -> list[int]:
    with server.client() as client:
        return [int(item) for item in client.lrange(key, 0, -1)]


def leave(broker: Broker) -> None:
    """End a connection as a killed process does: nothing is given back, nobody sweeps."""
    for consumer in broker._consumers:  # type: ignore[attr-defined]  # the adapter's own
        consumer._keeper._task.cancel()
    broker._link.close()  # type: ignore[attr-defined]  # the adapter's own
    broker._consumers.clear()  # type: ignore[attr-defined]  # the adapter's own


# == messages


async def test_what_a_celery_client_sends_we_receive(connect: Open, celery: Celery) -> None:
    eta = "2099-01-01T00:00:00+00:00"
    sent = [
        celery.send_task(
            "interop.add", (n, n), priority=priority, headers={"mine": n}, eta=eta if n else None
        )
        for n, priority in enumerate([9, 3, 0, 6, None])
    ]
    broker = await connect()
    deliveries = await take(await broker.consume(["celery"], prefetch=10), 5)
    order = [sent[n].id for n in (2, 4, 1, 3, 0)]
    assert [delivery.message.headers["id"] for delivery in deliveries] == order
    assert [delivery.message.correlation_id for delivery in deliveries] == order
    assert [delivery.message.priority for delivery in deliveries] == [0, 0, 3, 6, 9]
    assert deliveries[0].message.headers["mine"] == 2
    assert b"[[2, 2], {}," in deliveries[0].message.body


@pytest.mark.parametrize("encoding", ["auto", "base64"])
async def test_what_we_send_a_celery_worker_runs(
    connect: Open, store: ResultStore, server: RedisServer, tmp_path: Path, encoding: str
) -> None:
    broker = await connect(body_encoding=encoding)
    good, bad = call("interop.add", 2, 3, priority=6), call("interop.fail")
    await broker.publish([good, bad])
    with celery_worker(server, tmp_path):
        added, failed = await asyncio.gather(
            final(store, good.correlation_id), final(store, bad.correlation_id)
        )
    assert (added.state, added.value) == (SUCCESS, 5)
    assert (failed.state, failed.value["exc_type"], failed.value["exc_message"]) == (
        FAILURE, "ValueError", ["boom"],
    )  # fmt: skip


async def test_a_celery_client_waits_for_results_of_ours(celery: Celery, store: ResultStore) -> None:
    result = celery.send_task("interop.add", (1, 1))
    waiting = asyncio.create_task(asyncio.to_thread(result.get, timeout=10))
    await store.save([TaskResult(result.id, STARTED, {"pid": 1, "hostname": "w@h"})])
    await store.save(
        [TaskResult(result.id, SUCCESS, {"sum": 2}, date_done="2026-11-22T09:40:02+00:00", children=[])]
    )
    assert await waiting == {"sum": 2}
    failed = celery.AsyncResult(str(uuid.uuid4()))
    error = {"exc_type": "ValueError", "exc_message": ["boom"], "exc_module": "builtins"}
    await store.save([TaskResult(failed.id, FAILURE, error, traceback="Traceback: ...")])
    with pytest.raises(ValueError, match="boom"):
        await asyncio.to_thread(failed.get, timeout=10)


# == exchanges


def declared(name: str) -> Queue:
    return {
        "news": Queue("news", "press", "topic", "news.#"),
        # Celery fills a Broadcast's empty routing key with the default one, and listens to that channel alone.
        "shout": Queue("shout", "shout", "fanout", "celery"),
        "ours": Queue("ours", "press", "topic", "*.sport"),
    }.get(name, Queue(name))


def send_through(celery: Celery, exchange: Exchange, routing_key: str) -> None:
    """As a client does that has declared the exchange: its type is not kept in Redis."""
    celery.send_task(
        "interop.add",
        (1, 1),
        exchange=exchange,
        exchange_type=exchange.type,
        routing_key=routing_key,
        declare=[exchange],
    )


async def test_topic_exchanges_reach_both_sides(
    connect: Open, store: ResultStore, server: RedisServer, tmp_path: Path, celery: Celery
) -> None:
    broker = await connect(queue=declared)
    consumer = await broker.consume(["ours"], prefetch=10)
    with celery_worker(server, tmp_path, "celery,news"):
        with server.client() as client:
            await eventually(lambda: client.scard("_kombu.binding.press") == 2)
            members = client.smembers("_kombu.binding.press")
        assert b"news.#\x06\x16^news\\..*?$\x06\x16news" in members
        assert b"*.sport\x06\x16^[^\\.]+\\.sport$\x06\x16ours" in members
        message = call("interop.add", 20, 2, exchange="press", routing_key="news.sport")
        await broker.publish([message])
        assert (await final(store, message.correlation_id)).value == 22
        (delivery,) = await take(consumer, 1)
        assert (delivery.queue, delivery.message.routing_key) == ("ours", "news.sport")
    send_through(celery, Exchange("press", "topic"), "world.sport")
    (delivery,) = await take(consumer, 1)
    assert delivery.message.routing_key == "world.sport"


async def test_fanout_reaches_both_sides(
    connect: Open, store: ResultStore, server: RedisServer, tmp_path: Path, celery: Celery
) -> None:
    broker, second = await connect(queue=declared), await connect(queue=declared)
    consumers = [await one.consume(["shout"], prefetch=10) for one in (broker, second)]
    send_through(celery, Exchange("shout", "fanout"), "")
    deliveries = [(await take(consumer, 1))[0] for consumer in consumers]
    assert {delivery.queue for delivery in deliveries} == {"shout"}
    for consumer, delivery in zip(consumers, deliveries, strict=True):
        await consumer.settle(ack=[delivery])
    with celery_worker(server, tmp_path, "celery,shout"):
        with server.client() as client:
            await eventually(lambda: client.pubsub_numpat() >= 3)
        message = call("interop.add", 4, 4, exchange="shout", routing_key="shout")
        await broker.publish([message])
        assert (await final(store, message.correlation_id)).value == 8
        assert [len(await take(consumer, 1)) for consumer in consumers] == [1, 1]


# == custody


async def test_a_celery_worker_restores_what_we_held(
    connect: Open, store: ResultStore, server: RedisServer, tmp_path: Path
) -> None:
    broker = await connect(lease=1.0)
    messages = [call("interop.add", n, n) for n in range(3)]
    consumer = await broker.consume(["celery"], prefetch=10)
    await broker.publish(messages)
    held = await take(consumer, 3)
    await consumer.park([(held[0], time() + 1.0)])
    leave(broker)
    with celery_worker(server, tmp_path):
        for n, message in enumerate(messages):
            assert (await final(store, message.correlation_id)).value == 2 * n
        with server.client() as client:
            await eventually(lambda: client.hlen("unacked") == 0)  # Celery acks once the result is there


async def test_we_restore_what_a_killed_celery_worker_held(
    connect: Open, server: RedisServer, tmp_path: Path
) -> None:
    broker = await connect()
    await broker.publish([call("interop.note", n, 60) for n in range(3)])
    with celery_worker(server, tmp_path) as worker:
        await eventually(lambda: listed(server, "started") == [0])
        worker.kill()
    again = await take(await broker.consume(["celery"], prefetch=10), 3, within=VISIBILITY + 12)
    by_call = {delivery.message.headers["argsrepr"]: delivery for delivery in again}
    assert sorted(by_call) == ["(0, 60)", "(1, 60)", "(2, 60)"]
    running = by_call["(0, 60)"]  # the others may not have left the queue
    assert (running.redelivered, running.deaths) == (True, 0)


async def test_a_mixed_fleet_loses_nothing_when_one_of_each_kind_is_killed(
    connect: Open, server: RedisServer, tmp_path: Path, celery: Celery
) -> None:
    total = 300
    ours, victim = await connect(lease=1.0), await connect(lease=1.0)
    note = server.client()
    seen: list[int] = []
    # Celery's own sweep takes this for 300 s; a worker killed with it must not stop ours.
    note.set("unacked_mutex", "of the dead", px=300_000)

    async def work(consumer: Consumer) -> None:
        while batch := await consumer.receive(5):
            for delivery in batch:
                seen.append(int(delivery.message.headers["argsrepr"].strip("(,)").split(",")[0]))
                note.rpush("done", seen[-1])
            await consumer.settle(ack=batch)
            await asyncio.sleep(0)

    # Killed in a task: between its BRPOP and its registration Celery itself would lose a message.
    await ours.publish([call("interop.note", 0, 60)])
    with celery_worker(server, tmp_path) as doomed, celery_worker(server, tmp_path) as other:
        await eventually(lambda: listed(server, "started") == [0])
        await ours.publish([call("interop.note", n, 0.002) for n in range(2, total, 2)])
        for n in range(1, total, 2):
            celery.send_task("interop.note", (n, 0.002))
        await eventually(lambda: len(listed(server, "done")) > 10)
        with server.client() as client:
            (holder,) = set(client.hvals("where"))
        (doomed if holder == doomed.name.encode() else other).kill()
        await take(await victim.consume(["celery"], prefetch=20), 5)
        leave(victim)
        worker = asyncio.create_task(work(await ours.consume(["celery"], prefetch=10)))
        await eventually(lambda: set(listed(server, "done")) == set(range(total)))
    for consumer in ours._consumers:
        await consumer.close()
    await worker
    note.close()
    assert seen
    with server.client() as client:
        await eventually(lambda: client.llen("celery") == 0)
