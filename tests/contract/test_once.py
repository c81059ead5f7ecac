"""Messages that may be published again after a crash, and the names by which that is told."""

from taskq.broker import Broker
from taskq.message import Message
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
