"""How an idle consumer hears of news on Redis: by every list it reads, and by asking where Redis may not tell."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from taskq.broker_adapters.redis import consumer as redis_consumer
from taskq.broker_adapters.redis.broker import RedisBroker
from taskq.seams.broker import BrokerConfig, Queue, open_broker
from taskq.wire.message import Delivery, Message
from tests.polling import eventually
from tests.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis

QUIET = ("--user", "quiet", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, *QUIET) as running:
        yield running


async def opened(url: str) -> RedisBroker:
    broker = open_broker(BrokerConfig(url, queue=declared))
    assert isinstance(broker, RedisBroker)
    await broker.open()
    return broker


def declared(name: str) -> Queue:
    if name == "short":
        return Queue(name, arguments={"x-expires": 60_000})
    return Queue(name, exchange_type="fanout") if name == "shout" else Queue(name)


@pytest.fixture
async def broker(server: RedisServer) -> AsyncIterator[RedisBroker]:
    broker = await opened(server.url)
    yield broker
    await broker.close()


def message(queue: str, priority: int = 0) -> Message:
    return Message({"task": "t", "id": "x"}, b"[[], {}, {}]", routing_key=queue, priority=priority)


async def one(consumer: redis_consumer.RedisConsumer) -> Delivery:
    async with asyncio.timeout(10):
        (delivery,) = await consumer.receive(1)
    return delivery


def looks(server: RedisServer) -> int:
    """How often lists were looked at: an idle consumer does it each time before it waits."""
    with server.client() as client:
        calls: int = client.info("commandstats").get("cmdstat_exists", {"calls": 0})["calls"]
        return calls


def looked(server: RedisServer, before: int) -> bool:
    return looks(server) > before


async def test_news_of_every_priority_step_of_every_queue_wakes(
    server: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_consumer, "POLL", 600.0)
    consumer = await broker.consume(["a", "b"], prefetch=5)
    sender = await opened(server.url)
    for queue in ("a", "b"):
        for priority in range(10):
            before = looks(server)
            waiting = asyncio.create_task(one(consumer))
            await eventually(partial(looked, server, before))
            await sender.publish([message(queue, priority)])
            delivery = await waiting
            assert (delivery.queue, delivery.message.priority) == (queue, priority)
            await consumer.settle(ack=[delivery])
    await sender.close()


async def test_a_user_who_may_not_track_asks_often(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "taskq.broker_adapters.redis.consumer")
    broker = await opened(server.url.replace("://", "://quiet:pw@"))
    consumer = await broker.consume(["a"], prefetch=5)
    assert "idle queues are asked every 0.05 s" in caplog.text
    before = looks(server)
    waiting = asyncio.create_task(one(consumer))
    await eventually(partial(looked, server, before + 3))  # it goes on asking
    await broker.publish([message("a", 6)])
    assert (await waiting).message.priority == 6
    await broker.close()


async def test_a_rejected_fanout_message_goes_to_the_dead_letters(broker: RedisBroker) -> None:
    consumer = await broker.consume(["shout"], prefetch=5)
    await broker.publish([message("shout")])
    delivery = await one(consumer)
    await consumer.settle(reject=[(delivery, "no\nuse")])
    (letter,) = await broker.dead()
    assert (letter.queue, letter.reason) == ("shout", "no use")
    assert letter.message is not None
    assert letter.message.headers["id"] == "x"
    assert [one.id for one in await broker.revive([letter.id])] == [letter.id]


async def test_lists_of_expiring_queues_are_kept_for_as_long_as_they_are_used(
    server: RedisServer, broker: RedisBroker
) -> None:
    await broker.publish([message("short"), message("short", 6), message("a")])
    with server.client() as client:
        urgent = "short\x06\x166"
        assert [0 < client.pttl(key) <= 60_000 for key in ("short", urgent)] == [True, True]
        assert client.pttl("a") == -1
        client.persist(urgent)
        consumer = await broker.consume(["short"], prefetch=1)
        await one(consumer)
        await eventually(lambda: 0 < client.pttl(urgent) <= 60_000)
