"""What RabbitMQ's `max_message_size` refuses: the server closes the channel that all share."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from taskq.errors import Refused
from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.seams.publisher import failures_of
from taskq.wire.message import Message
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
