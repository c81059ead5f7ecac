"""Queues of every name that RabbitMQ takes; the driver would take some of them."""

from time import time

import pytest

from taskq.broker_adapters.amqp.delay import address, arrival_key, delayed_key
from taskq.errors import EncodeError, Refused
from taskq.seams.broker import Queue
from tests.broker_adapters.amqp.parts import Open, ids, message, take

pytestmark = pytest.mark.rabbitmq

NAMES = ["orders(eu)", "a=b", "größe", "日本", "#", "*.x", "a\"b'c\\", "with blank", "l" * 246, "ö" * 123]


@pytest.mark.parametrize("name", NAMES)
async def test_a_queue_works_whatever_its_name(open_broker: Open, queue: str, name: str) -> None:
    """Published to, consumed from, delayed, counted, purged."""
    name = f"{name}-{queue[-8:]}"
    broker = await open_broker()
    await broker.publish([message(name, 1)])
    consumer = await broker.consume([name], prefetch=10)
    (held,) = await take(consumer, 1)
    await consumer.settle(reject=[(held, "no good")])
    assert [letter.queue for letter in await broker.dead()] == [name]
    await broker.publish([message(name, 2, due=time() + 2.5)])
    (held,) = await take(consumer, 1)
    assert (ids([held]), held.message.exchange, held.message.routing_key) == (["id-2"], "", name)
    await consumer.settle(ack=[held])
    await consumer.close()
    await broker.publish([message(name, 3)])
    assert await broker.size(name) == 1
    assert await broker.purge(name) == 1


async def test_exchanges_of_such_names(open_broker: Open, queue: str, request: pytest.FixtureRequest) -> None:
    declared = Queue(f"größe-{queue}", f"größe({queue})", "topic", "klein.*")
    broker = await open_broker(queue=lambda _: declared, queues=lambda: [declared])
    sent = message("klein.rot", 1, exchange=declared.exchange)
    if "driver" in request.node.name:
        with pytest.raises(Refused, match="driver"):
            await broker.publish([sent])
        return
    await broker.publish([sent])
    assert await broker.size(declared.name) == 1


async def test_names_that_cannot_be_are_refused_at_once(open_broker: Open, queue: str) -> None:
    broker = await open_broker()
    for name in ("l" * 256, "ö" * 128):
        with pytest.raises(EncodeError, match="255 bytes"):
            await broker.publish([message(name)])
        with pytest.raises(EncodeError, match="255 bytes"):
            await broker.consume([name], prefetch=1)
    with pytest.raises(Refused, match="name"):
        await broker.consume([""], prefetch=1)


def test_no_name_is_a_pattern_in_the_delays() -> None:
    for name in ("#", "a.*", "*.#.b", "l" * 200):
        assert not {"*", "#"}.intersection(address(name).split("."))
        assert len(arrival_key(name)) <= 255
        assert len(delayed_key(5, address(name))) <= 255
    assert [address(name) for name in ("a.b", "a#", "l" * 199)] == ["a.b", "a#", "l" * 199]
