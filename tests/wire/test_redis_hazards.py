"""Redis at its worst: killed, frozen, full, read-only, behind a bad network, with foreign values under our keys."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from taskq import TaskQ
from taskq.broker_adapters.redis import keeper as redis_keeper
from taskq.broker_adapters.redis import publisher as redis_publisher
from taskq.broker_adapters.redis import session as redis_session
from taskq.clock import now
from taskq.errors import (
    BrokerFull,
    ConnectionLost,
    EncodeError,
    OperationalError,
    PublishErrors,
    Refused,
    StoreError,
)
from taskq.seams.broker import Broker, BrokerConfig, Consumer, Queue, open_broker
from taskq.seams.bus import Exchange, Inbox
from taskq.seams.store import ResultStore, StoreConfig, TaskResult, open_store
from taskq.states import SUCCESS
from taskq.wire.message import Delivery, Message
from taskq.worker import Worker
from taskq.worker.process.process import EXIT_OK, WorkerProcess
from tests.harness import running
from tests.polling import eventually, eventually_sync
from tests.proxy import Proxy, proxy
from tests.servers import RedisServer, free_port, redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


@pytest.fixture
async def bad_network(server: RedisServer) -> AsyncIterator[Proxy]:
    async with proxy(server.port) as running:
        yield running


Open = Callable[..., Any]


@pytest.fixture
async def connect() -> AsyncIterator[Open]:
    opened: list[Broker | ResultStore] = []

    async def open_one(url: str, *, store: bool = False, patience: float = 4.0, **fields: Any) -> Any:
        made: Broker | ResultStore = (
            open_store(StoreConfig(url, timeout=patience))
            if store
            else open_broker(BrokerConfig(url, timeout=patience, publish_timeout=patience, **fields))
        )
        await made.open()
        opened.append(made)
        return made

    yield open_one
    for one in opened:
        await one.close()


def messages(count: int, queue: str = "q", start: int = 0, **fields: Any) -> list[Message]:
    return [
        Message({"task": "t", "id": f"id-{n}"}, b"[[], {}, {}]", routing_key=queue, **fields)
        for n in range(start, start + count)
    ]


def ids(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.message.headers["id"].removeprefix("id-")) for delivery in deliveries]


async def take(consumer: Consumer, count: int, *, within: float = 20.0) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(taken) < count:
            taken += await consumer.receive(count - len(taken))
    return taken


def reached(received: set[int], goal: int) -> bool:
    return len(received) > goal


def through(network: Proxy) -> str:
    return f"redis://127.0.0.1:{network.port}/0"


# == a server that goes away


async def test_a_server_killed_again_and_again_loses_nothing_confirmed(connect: Open, tmp_path: Path) -> None:
    with redis_server(tmp_path, aof=True) as mortal:
        sender, receiver = await connect(mortal.url, patience=5.0), await connect(mortal.url)
        confirmed: set[int] = set()
        doubtful: set[int] = set()
        received: set[int] = set()
        stop = asyncio.Event()

        async def publish() -> None:
            at = 0
            while not stop.is_set():
                try:
                    await sender.publish(messages(5, start=at))
                    confirmed.update(range(at, at + 5))
                except OperationalError:
                    doubtful.update(range(at, at + 5))
                at += 5

        async def consume() -> None:
            consumer = await receiver.consume(["q"], prefetch=20)
            while batch := await consumer.receive(20):
                await consumer.settle(ack=batch)
                received.update(ids(batch))

        publishing, consuming = asyncio.create_task(publish()), asyncio.create_task(consume())
        for _ in range(3):
            goal = len(received) + 100
            await eventually(partial(reached, received, goal))
            mortal.kill()
            await asyncio.to_thread(mortal.start)
        stop.set()
        await publishing
        await eventually(lambda: confirmed <= received)
        await receiver.close()
        await consuming
        assert received <= confirmed | doubtful


async def test_a_frozen_server_is_given_up_and_found_again(
    connect: Open, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_session, "REPLY_TIMEOUT", 0.3)
    monkeypatch.setattr(redis_session, "_TICK", 0.1)
    broker = await connect(server.url, patience=0.5)
    consumer = await broker.consume(["q"], prefetch=5)
    waiting = asyncio.create_task(take(consumer, 1))
    server.send(signal.SIGSTOP)
    try:
        with pytest.raises(ConnectionLost) as caught:
            await broker.publish(messages(1))
        assert caught.value.maybe_accepted
    finally:
        server.send(signal.SIGCONT)
    await broker.publish(messages(1))  # the same id again: it was taken after all, or it is taken now
    assert ids(await waiting) == [0]
    assert await broker.size("q") == 0


# == a network that loses answers


async def test_a_publish_whose_answer_is_lost_is_neither_lost_nor_doubled(
    connect: Open, bad_network: Proxy
) -> None:
    broker = await connect(through(bad_network))
    for at in range(0, 20, 2):
        bad_network.swallow = True
        await broker.publish(messages(2, start=at))
        assert not bad_network.swallow
    assert ids(await take(await broker.consume(["q"], prefetch=50), 20)) == list(range(20))
    assert await broker.size("q") == 0


async def test_a_publish_given_up_says_so_and_its_repetition_is_no_duplicate(
    connect: Open, bad_network: Proxy, server: RedisServer
) -> None:
    broker = await connect(through(bad_network), patience=0.3)
    bad_network.swallow = bad_network.refuse = True
    with pytest.raises(ConnectionLost) as caught:
        await broker.publish(messages(3))
    assert caught.value.maybe_accepted
    with pytest.raises(ConnectionLost) as caught:
        await broker.publish(messages(1, start=3))
    assert not caught.value.maybe_accepted
    bad_network.refuse = False
    await broker.publish(messages(4))
    assert sorted(ids(await take(await broker.consume(["q"], prefetch=50), 4))) == [0, 1, 2, 3]
    with server.client() as client:
        assert client.llen("q") == 0


async def test_of_a_batch_in_pieces_it_is_known_which_were_taken(
    connect: Open, bad_network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_publisher, "PIECE", 1)  # each message is a piece
    broker = await connect(through(bad_network), patience=0.3)
    await broker.publish(messages(1))

    def cut_at_the_third(data: bytes) -> bytes:
        if b"id-3" not in data:
            return data
        bad_network.refuse = True
        bad_network.cut()
        return b""

    bad_network.rewrite = cut_at_the_third
    with pytest.raises(PublishErrors) as caught:
        await broker.publish(messages(4, start=1))
    failures = caught.value.failures.items()
    fates = {at: isinstance(error, OperationalError) and error.maybe_accepted for at, error in failures}
    assert fates == {2: True, 3: False}
    bad_network.rewrite, bad_network.refuse = bytes, False
    await broker.publish(messages(2, start=3))
    assert sorted(ids(await take(await broker.consume(["q"], prefetch=50), 5))) == [0, 1, 2, 3, 4]
    assert await broker.size("q") == 0


async def test_a_retry_of_the_same_task_is_another_message(connect: Open, bad_network: Proxy) -> None:
    broker = await connect(through(bad_network), patience=0.3)
    bad_network.swallow = bad_network.refuse = True
    with pytest.raises(ConnectionLost):
        await broker.publish(messages(1))
    bad_network.refuse = False
    (retry,) = messages(1)
    retry.headers["retries"] = 1
    await broker.publish([retry])
    assert await broker.size("q") == 2


async def test_a_claim_whose_answer_is_lost_is_found_again(
    connect: Open, bad_network: Proxy, server: RedisServer
) -> None:
    broker = await connect(through(bad_network), lease=60.0)
    sender = await connect(server.url)
    consumer = await broker.consume(["q", "r"], prefetch=10)
    await sender.publish([*messages(3, priority=6), *messages(3, "r", start=3)])
    bad_network.swallow = True
    deliveries = await take(consumer, 6)
    assert bad_network.connections == 2
    assert sorted(ids(deliveries)) == [0, 1, 2, 3, 4, 5]
    assert {(delivery.queue, delivery.redelivered, delivery.deaths) for delivery in deliveries} == {
        ("q", False, 0),
        ("r", False, 0),
    }
    await consumer.settle(ack=deliveries)
    with server.client() as client:
        assert client.hlen("unacked") == 0


async def test_a_settle_whose_answer_is_lost_is_repeated(
    connect: Open, bad_network: Proxy, server: RedisServer
) -> None:
    broker = await connect(through(bad_network))
    consumer = await broker.consume(["q"], prefetch=10)
    await broker.publish(messages(3))
    ack, back, bad = await take(consumer, 3)
    bad_network.swallow = True
    await consumer.settle(ack=[ack], requeue=[back], reject=[(bad, "no")])
    with server.client() as client:
        assert client.hlen("unacked") == 0
    assert ids(await take(consumer, 1)) == [1]
    assert [letter.reason for letter in await broker.dead()] == ["no"]


async def test_watches_survive_the_loss_of_their_connection(
    connect: Open, bad_network: Proxy, server: RedisServer
) -> None:
    reader, writer = await connect(through(bad_network), store=True), await connect(server.url, store=True)

    async def last(task_id: str) -> Any:
        return [state async for state in reader.watch(task_id)][-1].value

    waiting = [asyncio.create_task(last(f"t{n}")) for n in range(20)]
    await eventually(lambda: all(reader.watchers(f"t{n}") for n in range(20)))
    assert bad_network.connections == 2  # one that subscribes, one for all else
    bad_network.refuse = True
    bad_network.cut()
    await writer.save([TaskResult(f"t{n}", SUCCESS, n) for n in range(0, 20, 2)])
    bad_network.refuse = False
    await eventually(lambda: bad_network.connections == 4)
    await writer.save([TaskResult(f"t{n}", SUCCESS, n) for n in range(1, 20, 2)])
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting) == list(range(20))
    with server.client() as client:
        await eventually(lambda: client.pubsub_channels() == [])


# == a server that refuses


async def test_a_full_server_refuses_new_messages_and_goes_on_with_the_old(
    connect: Open, tmp_path: Path
) -> None:
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as full:
        broker, store = await connect(full.url), await connect(full.url, store=True)
        consumer = await broker.consume(["q"], prefetch=10)
        await broker.publish(messages(8))
        with full.client() as client:
            client.config_set("maxmemory", "1mb")
            with pytest.raises(BrokerFull):
                await broker.publish(messages(1, start=8))
            with pytest.raises(StoreError, match="full"):
                await store.save([TaskResult("t", SUCCESS, 1)])
            held = await take(consumer, 8)
            assert list(await consumer.renew(held)) == []
            await consumer.settle(ack=held[:2], requeue=held[2:4], reject=[(held[4], "no")])
            assert sorted(ids(await take(consumer, 2))) == [2, 3]
            await consumer.close()
            client.config_set("maxmemory", "0")
        await broker.publish(messages(1, start=8))
        again = await take(await broker.consume(["q"], prefetch=10), 6)
        assert sorted(ids(again)) == [2, 3, 5, 6, 7, 8]


def without_a_place_to_save(server: RedisServer, folder: Path) -> None:
    """MISCONF: the last save has failed, since a folder has the name of its file."""
    (folder / "dump.rdb").mkdir()
    with server.client() as client:
        client.config_set("save", "3600 1")
        client.bgsave()
        eventually_sync(lambda: client.info()["rdb_last_bgsave_status"] == "err")


def with_a_place_to_save(server: RedisServer, folder: Path) -> None:
    (folder / "dump.rdb").rmdir()
    with server.client() as client:
        client.bgsave()
        eventually_sync(lambda: client.info()["rdb_last_bgsave_status"] == "ok")


def without_replicas(server: RedisServer, folder: Path) -> None:
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)


def with_replicas(server: RedisServer, folder: Path) -> None:
    with server.client() as client:
        client.config_set("min-replicas-to-write", 0)


Turn = Callable[[RedisServer, Path], None]
NO_WRITES = pytest.mark.parametrize(
    ("refuse", "allow"),
    [(without_a_place_to_save, with_a_place_to_save), (without_replicas, with_replicas)],
    ids=["MISCONF", "NOREPLICAS"],
)


@NO_WRITES
async def test_a_server_that_takes_no_writes_is_waited_for(
    connect: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, refuse: Turn, allow: Turn
) -> None:
    with redis_server(tmp_path) as server:
        broker = await connect(server.url)
        consumer = await broker.consume(["q"], prefetch=10)
        await broker.publish(messages(3))
        await asyncio.to_thread(refuse, server, tmp_path)
        with pytest.raises(BrokerFull):
            await broker.publish(messages(1, start=3))
        waiting = asyncio.create_task(take(consumer, 3))
        with server.client() as client:
            asked = calls(client, "evalsha")
            await eventually(lambda: waiting.done() or calls(client, "evalsha") >= asked + 3)
            assert not waiting.done()
            await asyncio.to_thread(allow, server, tmp_path)
        assert ids(await waiting) == [0, 1, 2]
        refusals = [record for record in caplog.records if "nothing is received" in record.message]
        assert len(refusals) == 1
        assert "receives again" in caplog.text


def calls(client: redis.Redis, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_a_consumer_that_waits_for_writes_can_be_closed(connect: Open, tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        broker = await connect(server.url)
        consumer = await broker.consume(["q"], prefetch=10)
        await broker.publish(messages(3))
        without_replicas(server, tmp_path)
        waiting = asyncio.create_task(consumer.receive(3))
        with server.client() as client:
            await eventually(lambda: client.info("errorstats").get("errorstat_NOREPLICAS"))
        await consumer.close()
        async with asyncio.timeout(10):
            assert await waiting == []


@NO_WRITES
async def test_waiters_of_results_outlive_a_server_that_takes_no_writes(
    connect: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Turn, allow: Turn
) -> None:
    monkeypatch.setattr("taskq.broker_adapters.redis.watches.HEARTBEAT", 0.05)
    with redis_server(tmp_path) as server:
        reader, writer = await connect(server.url, store=True), await connect(server.url, store=True)

        async def last() -> Any:
            return [state async for state in reader.watch("t")][-1].value

        waiting = asyncio.create_task(last())
        await eventually(lambda: reader.watchers("t"))
        await asyncio.to_thread(refuse, server, tmp_path)
        with server.client() as client:
            asked = calls(client, "ping")
            await eventually(lambda: calls(client, "ping") + rejected(client, "ping") > asked + 3)
            await asyncio.to_thread(allow, server, tmp_path)
            client.client_kill_filter(_type="pubsub", skipme=True)
        await writer.save([TaskResult("t", SUCCESS, 7)])
        async with asyncio.timeout(10):
            assert await waiting == 7


def rejected(client: redis.Redis, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("rejected_calls", 0))


async def test_replies_come_again_after_a_server_took_no_writes(connect: Open, tmp_path: Path) -> None:
    exchange = Exchange("replies", "direct")
    with redis_server(tmp_path) as server:
        broker = await connect(server.url)
        replies = await broker.bus.listen(Inbox("key.replies", exchange, "key", ttl=5, expires=10))
        without_replicas(server, tmp_path)
        with server.client() as client:
            await eventually(lambda: client.info("errorstats").get("errorstat_NOREPLICAS"))
        with_replicas(server, tmp_path)
        await broker.bus.announce(exchange, messages(1, "key"))
        async with asyncio.timeout(10):
            (reply,) = await replies.receive()
        assert reply.headers["id"] == "id-0"


async def test_closing_a_store_ends_those_who_wait(connect: Open, server: RedisServer) -> None:
    store = await connect(server.url, store=True)
    waiting = asyncio.create_task(anext(store.watch("t")))
    await eventually(lambda: store.watchers("t"))
    await store.close()
    async with asyncio.timeout(10):
        with pytest.raises(StoreError, match="closed"):
            await waiting


async def test_an_id_that_cannot_be_written_harms_nobody_else(connect: Open, server: RedisServer) -> None:
    store = await connect(server.url, store=True)
    good, bad = (asyncio.create_task(anext(store.watch(name))) for name in ("t", "\ud800"))
    with pytest.raises(EncodeError, match="no id of a task"):
        await bad
    await store.save([TaskResult("t", SUCCESS, 7)])
    async with asyncio.timeout(10):
        assert (await good).value == 7


async def test_an_unexpected_error_does_not_end_the_keeper(
    connect: Open, server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_keeper, "CELERY_PAUSE", 0.05)
    look = redis_keeper.Keeper._look_at_celery
    failed = asyncio.Event()

    async def fail_once(keeper: redis_keeper.Keeper) -> None:
        if failed.is_set():
            return await look(keeper)
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(redis_keeper.Keeper, "_look_at_celery", fail_once)
    broker = await connect(server.url)
    consumer = await broker.consume(["q"], prefetch=10)
    await failed.wait()
    await broker.publish(messages(1))
    await consumer.park([(delivery, now() + 0.1) for delivery in await take(consumer, 1)])
    assert ids(await take(consumer, 1)) == [0]
    assert "ZeroDivisionError" in caplog.text


async def test_a_read_only_replica_says_so(connect: Open, server: RedisServer, tmp_path: Path) -> None:
    with redis_server(tmp_path, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        broker = await connect(replica.url)
        with pytest.raises(OperationalError, match="read-only replica") as caught:
            await broker.publish(messages(1))
        assert not caught.value.maybe_accepted
        store = await connect(replica.url, store=True, patience=0.3)
        with pytest.raises(StoreError, match="read-only replica"):
            await store.save([TaskResult("t", SUCCESS, 1)])


async def test_passwords_are_checked_and_never_shown(connect: Open, tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cret/ż") as locked:
        wrong = "wrong user or password"
        for login, why in (("", "wants a password"), (":wr0ng@", wrong), ("user:wr0ng@", wrong)):
            with pytest.raises(OperationalError, match=why) as caught:
                await connect(f"redis://{login}127.0.0.1:{locked.port}/0")
            assert "wr0ng" not in str(caught.value)
        broker = await connect(f"redis://:s3cret%2F%C5%BC@127.0.0.1:{locked.port}/3")
        await broker.publish(messages(1))
        assert await broker.size("q") == 1


async def test_a_foreign_value_under_the_name_of_a_queue(connect: Open, server: RedisServer) -> None:
    broker = await connect(server.url)
    with server.client() as client:
        client.set("foreign", "value")
        with pytest.raises(Refused, match="another type"):
            await broker.publish(messages(1, "foreign"))
        await broker.publish(messages(2))
        consumer = await broker.consume(["foreign", "q"], prefetch=10)
        assert ids(await take(consumer, 2)) == [0, 1]  # the other queue is served
        with pytest.raises(OperationalError, match="another type"):
            await take(consumer, 1)
        client.delete("foreign")
        await broker.publish(messages(1, "foreign", start=2))
        assert ids(await take(consumer, 1)) == [2]


@pytest.mark.parametrize("key", ["unacked", "unacked_index", "taskq:leases"])
async def test_a_foreign_value_under_a_key_of_custody_loses_nothing(
    connect: Open, server: RedisServer, key: str
) -> None:
    broker = await connect(server.url)
    await broker.publish(messages(3))
    with server.client() as client:
        client.set(key, "foreign")
        consumer = await broker.consume(["q"], prefetch=10)
        with pytest.raises(OperationalError, match="another type"):
            await take(consumer, 1)
        assert client.llen("q") == 3
        client.delete(key)
    assert ids(await take(consumer, 3)) == [0, 1, 2]


async def test_forgotten_scripts_are_loaded_again(connect: Open, server: RedisServer) -> None:
    broker, store = await connect(server.url), await connect(server.url, store=True)
    consumer = await broker.consume(["q"], prefetch=10)
    with server.client() as client:
        for n in range(3):
            client.script_flush()
            await broker.publish(messages(1, start=n))
            client.script_flush()
            (delivery,) = await take(consumer, 1)
            client.script_flush()
            await store.save([TaskResult(f"id-{n}", SUCCESS, n)])
            client.script_flush()
            await consumer.settle(ack=[delivery])
    assert [result.value for result in await store.load(["id-0", "id-1", "id-2"])] == [0, 1, 2]
    assert await broker.size("q") == 0


# == values larger than what Redis lets a subscriber have (32 MB by default)

HUGE = 40_000_000


@pytest.mark.timeout(120)
async def test_many_large_messages_that_wait_are_all_run(server: RedisServer) -> None:
    async with TaskQ("large", broker=server.url, backend=server.url) as app:

        @app.task(name="large.size")
        async def size(text: str) -> int:
            return len(text)

        results = [await size.delay("x" * 150_000) for _ in range(300)]
        async with running(app):
            assert [await result.get(60) for result in results] == [150_000] * 300


@pytest.mark.timeout(60)
async def test_a_huge_message_reaches_one_who_subscribes_too(connect: Open, server: RedisServer) -> None:
    fanout = Queue("all", exchange_type="fanout")
    broker = await connect(server.url, queue=lambda name: fanout if name == "all" else Queue(name))
    heard = await broker.bus.listen(Inbox("events", Exchange("events")))
    consumer = await broker.consume(["q", "all"], prefetch=10)
    await broker.publish([Message({"task": "t", "id": "id-0"}, b"x" * HUGE, routing_key="q")])
    [delivery] = await take(consumer, 1, within=30)
    assert len(delivery.message.body) == HUGE
    await broker.publish(messages(1, "all", start=1))
    await broker.bus.announce(Exchange("events"), messages(1, "", start=2))
    assert ids(await take(consumer, 1)) == [1]
    assert [message.headers["id"] for message in await heard.receive()] == ["id-2"]


async def test_one_claim_takes_a_few_megabytes(connect: Open, server: RedisServer) -> None:
    broker = await connect(server.url)
    sizes = [10, 20, 1_000_000, 30, 2_000_000, 40, *[150_000] * 100, 9_000_000, 50]
    await broker.publish(
        [
            Message({"task": "t", "id": f"id-{n}"}, b"x" * size, routing_key="q")
            for n, size in enumerate(sizes)
        ]
    )
    consumer = await broker.consume(["q"], prefetch=1000)
    claims: list[list[Delivery]] = []
    while sum(map(len, claims)) < len(sizes):
        claims.append(list(await consumer.receive(1000)))
    assert [n for claim in claims for n in ids(claim)] == list(range(len(sizes)))
    for claim in claims:
        assert sum(len(delivery.message.body) for delivery in claim[:-1]) < 4 << 20
    with server.client() as client:
        assert client.hlen("unacked") == len(sizes)


@pytest.mark.timeout(60)
async def test_a_huge_result_arrives(connect: Open, server: RedisServer) -> None:
    reader, writer = await connect(server.url, store=True), await connect(server.url, store=True)

    async def last(task_id: str) -> Any:
        return [state async for state in reader.watch(task_id)][-1].value

    early = asyncio.create_task(last("huge"))
    other = asyncio.create_task(last("small"))
    await eventually(lambda: reader.watchers("huge") and reader.watchers("small"))
    await writer.save([TaskResult("huge", SUCCESS, "x" * HUGE)])
    assert len(await early) == HUGE
    assert len(await last("huge")) == HUGE
    await writer.save([TaskResult("small", SUCCESS, 7)])
    assert await other == 7


# == other ways in


async def test_a_cluster_is_refused_with_the_reason(connect: Open, tmp_path: Path) -> None:
    with (
        redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as cluster,
        pytest.raises(OperationalError, match=r"Redis Cluster.*one slot"),
    ):
        await connect(cluster.url)


async def test_a_unix_socket(connect: Open, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server(tmp_path, "--unixsocket", str(path)):
        broker = await connect(f"redis+socket://{path}?virtual_host=2")
        await broker.publish(messages(1))
        assert await broker.size("q") == 1


async def test_the_next_url_of_a_failover_list(connect: Open, server: RedisServer) -> None:
    urls = f"redis://:s3cret@127.0.0.1:{free_port()}/0;{server.url}"
    broker = await connect(urls)
    await broker.publish(messages(1))
    assert await broker.size("q") == 1
    gone = f"redis://:s3cret@127.0.0.1:{free_port()}/0"
    with pytest.raises(OperationalError) as caught:
        await connect(f"{gone};{gone}")
    assert "s3cret" not in str(caught.value)


async def test_sentinel_leads_to_the_master(connect: Open, server: RedisServer, tmp_path: Path) -> None:
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor mymaster 127.0.0.1 {server.port} 1\n")
    with redis_server(tmp_path, config=config) as sentinel:
        url = f"sentinel://127.0.0.1:{free_port()}/0;sentinel://127.0.0.1:{sentinel.port}/0"
        broker = await connect(url, options={"master_name": "mymaster"})
        await broker.publish(messages(1))
        with server.client() as client:
            assert client.llen("q") == 1
        with pytest.raises(ConnectionLost, match="No master found for 'other'"):
            await connect(url, options={"master_name": "other"})


async def test_a_worker_cut_off_while_it_starts_begins_again(
    bad_network: Proxy, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def cut_at_the_binding(asked: bytes) -> bytes:
        if b"_kombu.binding" in asked and "trying again" not in caplog.text:
            bad_network.swallow = True
        return asked

    bad_network.rewrite = cut_at_the_binding
    url = server.url.replace(str(server.port), str(bad_network.port))
    ready = asyncio.Event()
    worker = Worker(TaskQ("proj", broker=url, backend="disabled://"), on_ready=ready.set)
    run = asyncio.create_task(WorkerProcess(worker).run())
    async with asyncio.timeout(30):
        await ready.wait()
    assert "; trying again in 1s" in caplog.text
    os.kill(os.getpid(), signal.SIGTERM)
    assert await run == EXIT_OK
