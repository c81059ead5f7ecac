"""Messages that may be published again after a crash, and the names by which that is told."""

from functools import partial
from operator import add

import pytest
from redis.asyncio import Redis

from taskq.clock import now, set_source
from taskq.errors import Refused
from taskq.seams.broker import ONCE, ONCE_SETTLED, Broker, BrokerConfig, open_broker
from taskq.wire.message import Message
from tests.contract.sites import BrokerSite, ConnectBroker


def named(site: BrokerSite, once: str | None, text: bytes = b"[]") -> Message:
    return Message({"task": "t", "id": "1"}, text, routing_key=site.rename("jobs"), once=once)


async def test_a_message_named_once_is_published_a_single_time(
    site: BrokerSite, connect: ConnectBroker
) -> None:
    first, second = await connect(), await connect()
    if not first.features.once:
        return
    await first.publish([named(site, "a"), named(site, "a"), named(site, "b")])
    await second.publish([named(site, "b"), named(site, "c"), named(site, None), named(site, None)])
    assert await count(site, second) == 5


async def test_the_name_outlives_the_message(site: BrokerSite, connect: ConnectBroker) -> None:
    broker = await connect()
    if not broker.features.once:
        return
    await broker.publish([named(site, "a")])
    consumer = await broker.consume([site.rename("jobs")], prefetch=10)
    await consumer.settle(ack=await consumer.receive(10))
    await broker.publish([named(site, "a"), named(site, "b")])
    assert await count(site, broker) == 1


async def test_a_serial_names_the_message_at_each_delivery(site: BrokerSite, connect: ConnectBroker) -> None:
    broker = await connect()
    if not broker.features.once:
        return
    await broker.publish([named(site, None), named(site, None)])
    consumer = await broker.consume([site.rename("jobs")], prefetch=10)
    one, two = await consumer.receive(10)
    assert one.serial
    assert one.serial != two.serial
    await consumer.settle(requeue=[one], ack=[two])
    [again] = await consumer.receive(10)
    assert again.serial == one.serial


async def count(site: BrokerSite, broker: Broker) -> int:
    return await broker.size(site.rename("jobs"))


async def test_the_names_are_forgotten_some_time_after_their_delivery(
    site: BrokerSite, connect: ConnectBroker
) -> None:
    broker = await connect()
    if not broker.features.once:
        return
    await broker.publish([named(site, None), named(site, "kept")])
    consumer = await broker.consume([site.rename("jobs")], prefetch=10)
    one, two = await consumer.receive(10)
    await broker.publish([named(site, "a"), named(site, "a")])
    one.once = ["a"]
    await consumer.settle(ack=[one, two])
    await broker.publish([named(site, "a")])  # still known for a while
    assert await count(site, broker) == 1


@pytest.mark.parametrize("site", ["memory", "sqlite"], indirect=True)
async def test_a_name_is_free_again_in_the_end(site: BrokerSite, connect: ConnectBroker) -> None:
    broker = await connect()
    start = now()
    await broker.publish([named(site, "settled"), named(site, "lasting")])
    consumer = await broker.consume([site.rename("jobs")], prefetch=10)
    deliveries = await consumer.receive(10)
    deliveries[0].once = ["settled"]
    await consumer.settle(ack=deliveries)
    again = [named(site, "settled"), named(site, "lasting")]
    for later, counted in ((ONCE_SETTLED - 1, 0), (ONCE_SETTLED + 1, 1), (ONCE - 1, 1), (ONCE + 1, 2)):
        before = set_source(partial(add, start, later))
        try:
            await broker.publish(again if later != ONCE - 1 else again[1:])
        finally:
            set_source(before)
        assert await count(site, broker) == counted


@pytest.mark.redis
async def test_on_redis_names_are_keys_that_expire(redis_url: str, broker_redis: BrokerSite) -> None:
    broker = open_broker(BrokerConfig(broker_redis.url, options=broker_redis.options))
    await broker.open()
    key = f"{broker_redis.options['global_keyprefix']}taskq:once:a"
    async with Redis.from_url(broker_redis.url) as client:
        await broker.publish([Message({"task": "t", "id": "1"}, b"[]", routing_key="jobs", once="a")])
        assert ONCE - 60 < await client.ttl(key) <= ONCE
        consumer = await broker.consume(["jobs"], prefetch=10)
        deliveries = await consumer.receive(10)
        deliveries[0].once = ["a"]
        await consumer.settle(ack=deliveries)
        assert 0 < await client.ttl(key) <= ONCE_SETTLED
    await broker.close()


@pytest.mark.redis
async def test_on_redis_a_name_whose_message_was_refused_is_not_taken(
    redis_url: str, broker_redis: BrokerSite
) -> None:
    broker = open_broker(BrokerConfig(broker_redis.url, options=broker_redis.options))
    await broker.open()
    message = Message({"task": "t", "id": "1"}, b"[]", routing_key="jobs", once="a")
    async with Redis.from_url(broker_redis.url) as client:
        queue = f"{broker_redis.options['global_keyprefix']}jobs"
        await client.set(queue, "not a list")
        with pytest.raises(Refused):
            await broker.publish([message])
        await client.delete(queue)
        await broker.publish([message, message])
        assert await broker.size("jobs") == 1
    await broker.close()
