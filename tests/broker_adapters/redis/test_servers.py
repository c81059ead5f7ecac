"""What a client does when servers are away, silent, elsewhere or set up so that they lose things."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskq.broker_adapters.redis import broker as redis_broker
from taskq.broker_adapters.redis.broker import RedisBroker
from taskq.errors import ConnectionLost, OperationalError
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.states import SUCCESS
from taskq.wire.message import Message
from tests.polling import eventually
from tests.proxy import Proxy, proxy
from tests.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
async def network(server: RedisServer) -> AsyncIterator[Proxy]:
    async with proxy(server.port) as running:
        yield running


def message(n: int) -> Message:
    return Message({"task": "t", "id": f"id-{n}"}, b"[]", routing_key="q")


async def test_one_attempt_tries_every_server_of_a_list(server: RedisServer) -> None:
    url = f"redis://127.0.0.1:1/0;redis://127.0.0.1:2/0;{server.url}"
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    await broker.publish([message(1)])
    assert await broker.size("q") == 1
    await broker.close()
    store = open_store(StoreConfig(url))
    await store.open()
    await store.save([TaskResult("t", SUCCESS, 1)])
    await store.close()


async def test_who_could_not_be_reached_is_told_of_each(server: RedisServer) -> None:
    broker = open_broker(BrokerConfig("redis://:s3cret@127.0.0.1:1/0;redis://127.0.0.1:2/0"))
    with pytest.raises(ConnectionLost, match=r"127.0.0.1:1.*127.0.0.1:2") as caught:
        await broker.open()
    assert "s3cret" not in str(caught.value)


async def test_callers_share_one_attempt_to_connect(network: Proxy) -> None:
    """A server that says nothing keeps the tenth caller no longer than the first."""
    network.flow.clear()
    broker = open_broker(BrokerConfig(f"redis://127.0.0.1:{network.port}/0", timeout=0.5))
    ends = await asyncio.gather(*(broker.publish([message(n)]) for n in range(10)), return_exceptions=True)
    assert {type(end) for end in ends} == {ConnectionLost}
    assert network.connections == 1
    network.flow.set()
    await broker.publish([message(1)])
    assert await broker.size("q") == 1
    await broker.close()


async def test_who_gives_up_does_not_end_the_attempt_of_others(network: Proxy) -> None:
    network.flow.clear()
    broker = open_broker(BrokerConfig(f"redis://127.0.0.1:{network.port}/0", timeout=20))
    first, second = (asyncio.create_task(broker.publish([message(n)])) for n in range(2))
    await eventually(lambda: network.connections == 1)
    first.cancel()
    await asyncio.wait([first])
    network.flow.set()
    await second
    assert network.connections == 1
    await broker.close()


@pytest.mark.parametrize("once", [None, "name"])
async def test_a_connection_that_confirms_nothing_in_time_is_dropped(
    network: Proxy, once: str | None
) -> None:
    config = BrokerConfig(f"redis://127.0.0.1:{network.port}/0", publish_timeout=0.3)
    broker = open_broker(config)
    await broker.open()
    network.flow.clear()
    silent = message(1)
    silent.once = once
    with pytest.raises(ConnectionLost, match=r"not confirmed within 0.3 s") as caught:
        await broker.publish([silent])
    assert caught.value.maybe_accepted
    network.flow.set()
    await broker.publish([silent])
    assert network.connections == 2
    assert await broker.size("q") == 1
    await broker.close()


async def test_tls_to_a_plain_port_says_so_long_before_the_time_to_connect_is_over(
    server: RedisServer,
) -> None:
    for url in (server.url.replace("redis://", "rediss://"), f"rediss://127.0.0.1:{server.port}/0"):
        broker = open_broker(BrokerConfig(url, timeout=60))
        async with asyncio.timeout(30):
            with pytest.raises(OperationalError, match="speaks no TLS on this port"):
                await broker.open()


async def test_a_server_that_evicts_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_broker, "_EVICTING", set())
    with redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru") as evicting:
        for _ in range(2):
            broker = open_broker(BrokerConfig(evicting.url))
            await broker.open()
            await broker.close()
    assert caplog.text.count("maxmemory-policy is allkeys-lru") == 1
    assert "set it to noeviction" in caplog.text


async def test_a_server_that_keeps_everything_is_not_warned_of(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = open_broker(BrokerConfig(server.url))
    await broker.open()
    await broker.close()
    assert "maxmemory" not in caplog.text


async def test_an_outage_is_one_warning_for_each_connection(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """However many parts of a process wait for it."""
    caplog.set_level(logging.INFO)
    broker = RedisBroker(BrokerConfig(server.url))
    await broker.open()
    consumers = [await broker.consume([name], prefetch=1) for name in ("q", "other")]
    receiving = [asyncio.create_task(consumer.receive(1)) for consumer in consumers]
    for _ in range(2):
        caplog.clear()
        server.kill()
        await eventually(lambda: "trying again until it works" in caplog.text)
        server.start()
        await eventually(lambda: not broker._link._outage._told)
        assert caplog.text.count("trying again until it works") == 1
        assert "Traceback" not in caplog.text
    await broker.publish([message(1)])
    await asyncio.wait(receiving, return_when=asyncio.FIRST_COMPLETED)
    for one in receiving:
        one.cancel()
    await asyncio.wait(receiving)
    await broker.close()
