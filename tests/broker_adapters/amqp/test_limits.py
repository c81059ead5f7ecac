"""What a server is configured to refuse: large messages, and custody for long."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from taskq.broker_adapters.amqp.consumer import AmqpConsumer
from taskq.errors import Refused
from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.seams.publisher import failures_of
from taskq.wire.message import Message
from tests.polling import eventually
from tests.servers import RabbitServer, rabbit_server

pytestmark = pytest.mark.rabbitmq


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with rabbit_server(tmp_path_factory.mktemp("rabbitmq"), "max_message_size = 100000\n") as running:
        yield running


@pytest.fixture(params=[True, False], ids=["codec", "driver"])
async def broker(server: RabbitServer, request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    opened = open_broker(BrokerConfig(server.url, options={"codec": request.param}))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def queue() -> str:
    return f"limits-{uuid.uuid4().hex[:8]}"


def message(queue: str, size: int) -> Message:
    return Message({"id": str(size)}, b"x" * size, correlation_id=str(size), routing_key=queue)


async def test_a_message_that_is_too_large_is_refused_alone(broker: Broker, queue: str) -> None:
    batch = [message(queue, 1), message(queue, 100_001), message(queue, 100_000)]
    for _ in range(2):
        failures = await failures_of(broker, batch)
        assert {index: type(error) for index, error in failures.items()} == {1: Refused}
        assert "max_message_size" in str(failures[1])
    assert await broker.size(queue) == 4


async def test_a_single_one_is_refused_at_once(broker: Broker, queue: str) -> None:
    await broker.publish([message(queue, 1)])
    with pytest.raises(Refused, match="100000 bytes"):
        await broker.publish([message(queue, 100_001)])
    await broker.publish([message(queue, 2)])
    assert await broker.size(queue) == 2


@pytest.fixture(scope="module")
def hasty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with rabbit_server(tmp_path_factory.mktemp("rabbitmq")) as running:
        for name, milliseconds in (("consumer_timeout", 3000), ("channel_tick_interval", 500)):
            running.control("eval", f"application:set_env(rabbit, {name}, {milliseconds}).")
        yield running


@pytest.fixture(params=[True, False], ids=["codec", "driver"])
async def hasty(hasty_server: RabbitServer, request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    opened = open_broker(BrokerConfig(hasty_server.url, options={"codec": request.param}))
    await opened.open()
    yield opened
    await opened.close()


async def test_a_short_consumer_timeout_is_learned_and_the_run_goes_on(
    hasty: Broker, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes again belongs to the run that goes on; from then on it is held by a copy, and comes no more."""
    caplog.set_level(logging.WARNING)
    consumer = await hasty.consume([queue], prefetch=10)
    assert isinstance(consumer, AmqpConsumer)
    await hasty.publish([message(queue, 1)])
    (held,) = await consumer.receive(10)
    await eventually(lambda: held in consumer._holds, within=60)
    assert "its consumer_timeout is 3 s" in caplog.text
    more = asyncio.ensure_future(consumer.receive(10))
    done, _ = await asyncio.wait([more], timeout=7)  # twice as long as the server waits
    assert not done
    assert list(await consumer.renew([held])) == []
    await consumer.settle(ack=[held])
    await hasty.publish([message(queue, 2)])
    assert [delivery.message.headers["id"] for delivery in await more] == ["2"]
    assert caplog.text.count("consumer_timeout is 3 s") == 1


async def test_a_consumer_timeout_that_is_told_is_never_met(hasty_server: RabbitServer, queue: str) -> None:
    broker = open_broker(BrokerConfig(hasty_server.url, options={"consumer_timeout": 3}))
    await broker.open()
    consumer = await broker.consume([queue], prefetch=10)
    assert isinstance(consumer, AmqpConsumer)
    session = consumer._session
    await broker.publish([message(queue, 1)])
    (held,) = await consumer.receive(10)
    await eventually(lambda: held in consumer._holds)
    assert consumer._session is session
    await consumer.settle(ack=[held])
    await broker.close()
