"""Whether something is revoked is known without asking for each batch, and never known wrongly."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from taskq import TaskQ
from taskq.broker_adapters.redis.scripts import ACK, CLAIM
from taskq.broker_adapters.redis.store import SAVE
from taskq.broker_adapters.sqlite import queues as sqlite_queues
from taskq.seams.broker import Broker, BrokerConfig, Consumer, open_broker
from taskq.wire.message import Delivery, Message
from tests.contract.sites import ConnectBroker
from tests.harness import running
from tests.proxy import proxy
from tests.servers import redis_server

AHEAD = 3600.0


def message(queue: str, n: int) -> Message:
    return Message({"task": "t", "id": f"id-{n}", "n": n}, b"[[], {}, {}]", routing_key=queue)


async def revoked_of(broker: Broker, consumer: Consumer, deliveries: list[Delivery]) -> set[str]:
    """As a worker asks."""
    ids = [str(one.message.headers["id"]) for one in deliveries]
    known = consumer.revoked
    return set(ids) & set(await broker.revoked(ids) if known is None else known)


async def test_what_was_revoked_before_it_was_taken_is_known_with_it(connect: ConnectBroker) -> None:
    """However the two follow each other: another connection revokes, then sends."""
    broker, caller = await connect(), await connect()
    queue = "revoked"
    consumer = await broker.consume([queue], prefetch=10)
    for n in range(30):
        if n % 3 == 1:
            await caller.revoke([f"id-{n}"], time.time() + AHEAD)
        await caller.publish([message(queue, n)])
        async with asyncio.timeout(10):
            [delivery] = await consumer.receive(1)
        assert await revoked_of(broker, consumer, [delivery]) == ({f"id-{n}"} if n % 3 == 1 else set())
        await consumer.settle(ack=[delivery])


async def test_it_ends_with_its_time(connect: ConnectBroker) -> None:
    broker = await connect()
    consumer = await broker.consume(["ends"], prefetch=10)
    until = time.time() + 0.5
    await broker.revoke(["id-1"], until)
    await broker.publish([message("ends", 1)])
    [delivery] = await consumer.receive(1)
    seen = await revoked_of(broker, consumer, [delivery])
    assert seen == {"id-1"} or time.time() >= until
    while await revoked_of(broker, consumer, [delivery]):
        assert time.time() < until + 10
        await asyncio.wait([asyncio.ensure_future(broker.size("ends"))])
    assert time.time() >= until


async def test_on_sqlite_very_many_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_queues, "MOST_REVOKED", 3)
    broker = open_broker(BrokerConfig(f"sqlite:///{tmp_path}/x.db"))
    await broker.open()
    consumer = await broker.consume(["q"], prefetch=10)
    for many, known in ((["a"], {"a"}), (["b", "c", "d", "e"], None)):
        await broker.revoke(many, time.time() + AHEAD)
        await broker.publish([message("q", 1)])
        [delivery] = await consumer.receive(1)
        await consumer.settle(ack=[delivery])
        assert consumer.revoked == known
    assert set(await broker.revoked(["a", "e", "f"])) == {"a", "e"}
    await broker.close()


@pytest.mark.redis
async def test_a_warm_task_on_redis_is_three_round_trips_and_two_until_its_caller_has_the_result(
    tmp_path: Path,
) -> None:
    """Claim, save, settle: what is asked beside them is not the task's (leases, sweeps, signs of life)."""
    own = {CLAIM.sha: "claim", SAVE.sha: "save", ACK.sha: "settle", "ZMSCORE": "ask for revoked ids"}
    trips: list[str] = []

    def note(data: bytes) -> bytes:
        trips.extend(name for mark, name in own.items() if mark.encode() in data)
        return data

    with redis_server(tmp_path) as server:
        async with proxy(server.port) as seen, TaskQ("warm", broker=server.url) as caller:
            through, seen.rewrite = f"redis://127.0.0.1:{seen.port}/0", note
            async with TaskQ("warm", broker=through, worker_enable_remote_control=False) as app:

                @app.task(name="warm.one")
                async def one() -> int:
                    return 1

                async with running(app):
                    for _ in range(3):
                        assert await (await caller.send_task("warm.one")).get(timeout=10) == 1
                    await wait_for(lambda: trips.count("settle") >= 3, caller)
                    trips.clear()
                    assert await (await caller.send_task("warm.one")).get(timeout=10) == 1
                    until_known = [name for name in trips if name != "settle"]
                    await wait_for(lambda: "settle" in trips, caller)
    assert until_known == ["claim", "save"]
    assert trips == ["claim", "save", "settle"]


async def wait_for(held: Callable[[], bool], app: TaskQ) -> None:
    """Let the worker go on until it holds."""
    async with asyncio.timeout(20):
        while not held():
            await (await app.open_broker()).size("celery")
