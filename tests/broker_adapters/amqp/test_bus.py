"""What happens to listeners on the bus when their server or connection goes, and names that are taken."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from taskq import TaskQ
from taskq.errors import OperationalError
from taskq.remote.control import Mailbox
from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.seams.bus import Exchange, Inbox, Listener
from taskq.wire.message import Message
from tests.harness import running
from tests.polling import eventually
from tests.rabbit import CONTROL, close_connections, rabbit_vhost
from tests.servers import RedisServer, redis_server

EVENTS = Exchange("celeryev", "topic", durable=True)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Broker]:
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def vhost(amqp_url: str) -> Iterator[str]:
    with rabbit_vhost(amqp_url) as url:
        yield url


async def hears(broker: Broker, exchange: Exchange, key: str, listener: Listener) -> None:
    """The listener gets what is announced, at some time: what goes into a broken connection is lost."""

    async def probe() -> bool:
        try:
            await broker.bus.announce(exchange, [Message({}, b"{}", exchange=exchange.name, routing_key=key)])
            async with asyncio.timeout(0.3):
                return bool(await listener.receive())
        except (OperationalError, TimeoutError):
            return False

    await eventually(probe)


@pytest.mark.redis
async def test_redis_listeners_come_back_with_the_server(server: RedisServer) -> None:
    async with opened(server.url) as broker, opened(server.url) as speaker:
        events = await broker.bus.listen(Inbox("e", EVENTS, "worker.#"))
        replies = await broker.bus.listen(Mailbox().caller("oid"))
        await hears(speaker, EVENTS, "worker.x", events)
        server.kill()
        with pytest.raises(OperationalError):
            await speaker.bus.announce(EVENTS, [Message({}, b"{}", routing_key="worker.x")])
        server.start()
        await hears(speaker, EVENTS, "worker.x", events)
        await replies.close()  # its binding was lost with the server: it is for one call
        assert await replies.receive() == []


@pytest.mark.redis
async def test_redis_keeps_nothing_of_a_closed_inbox(server: RedisServer) -> None:
    client = server.client()
    table = "_kombu.binding.reply.celery.pidbox"
    async with opened(server.url) as broker:
        replies = await broker.bus.listen(Mailbox().caller("oid"))
        assert client.smembers(table) == {b"oid\x06\x16\x06\x16oid.reply.celery.pidbox"}
        assert client.zscore("_kombu.binding_deadlines", "reply.celery.pidbox")
        events = await broker.bus.listen(Inbox("e[1]", EVENTS, "#"))
        assert client.pubsub_numpat() == 1
        await replies.close()
        await events.close()
        assert client.pubsub_numpat() == 0
        assert client.keys("*") == [b"_kombu.binding_deadlines"]
    client.close()


@pytest.mark.redis
async def test_redis_replies_go_to_inboxes_alone(server: RedisServer) -> None:
    """Whatever was bound to their exchange: what gets one expires."""
    client, key = server.client(), "9c52cd9e-4ab3-4a0c-8a8d-0f7a4d2b7b0a"
    replies = Mailbox().replies
    client.rpush("celery", b"a task")
    client.sadd(f"_kombu.binding.{replies.name}", f"{key}\x06\x16\x06\x16celery", "x\x06\x16.*\x06\x16celery")
    async with opened(server.url) as broker:
        listener = await broker.bus.listen(Mailbox().caller(key))
        await hears(broker, replies, key, listener)
    assert (client.llen("celery"), client.ttl("celery")) == (1, -1)
    client.close()


@pytest.mark.redis
async def test_what_cannot_be_read_is_dropped(server: RedisServer) -> None:
    client = server.client()
    async with opened(server.url) as broker:
        events = await broker.bus.listen(Inbox("e", EVENTS, "#"))
        client.publish("/0.celeryev/worker.x", b"no envelope")
        await hears(broker, EVENTS, "worker.x", events)
    client.close()


@pytest.mark.rabbitmq
@pytest.mark.skipif(CONTROL is None, reason="rabbitmqctl closes the connections")
async def test_rabbitmq_listeners_come_back_with_the_connection(vhost: str) -> None:
    async with opened(vhost) as broker, opened(vhost) as speaker:
        events = await broker.bus.listen(Inbox("taskq-test-e", EVENTS, "worker.#"))
        await hears(speaker, EVENTS, "worker.x", events)
        await eventually(lambda: close_connections(vhost), every=0.5)
        await hears(speaker, EVENTS, "worker.x", events)


@pytest.mark.rabbitmq
async def test_rabbitmq_gives_a_node_name_once(vhost: str, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(vhost) as broker, opened(vhost) as other:
        node = Mailbox().node("w@taskq-test")
        first = await broker.bus.listen(node)
        with pytest.raises(OperationalError, match=r"another process has the queue w@taskq-test"):
            await other.bus.listen(node)
        app = TaskQ("proj", broker=vhost, backend="memory://node")
        async with app, running(app, hostname="w@taskq-test"):
            assert "is there another worker called w@taskq-test?" in caplog.text
        await first.close()
        again = await other.bus.listen(node)
        await again.close()
