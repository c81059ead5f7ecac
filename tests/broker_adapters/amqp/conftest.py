"""Brokers on a virtual host of the tests' own, by both ways of writing messages."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from taskq.broker_adapters.amqp.broker import AmqpBroker
from taskq.seams.broker import BrokerConfig
from tests.broker_adapters.amqp.parts import Open
from tests.rabbit import is_own, rabbit_vhost


@pytest.fixture(scope="session")
def vhost(amqp_url: str) -> Iterator[str]:
    with rabbit_vhost(amqp_url) as url:
        yield url


@pytest.fixture
def controlled(vhost: str) -> None:
    if not is_own(vhost):
        pytest.skip("rabbitmqctl is missing, or speaks to another server")


@pytest.fixture(params=[True, False], ids=["codec", "driver"])
async def open_broker(vhost: str, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    namespace = uuid.uuid4().hex[:8]
    async with AsyncExitStack() as stack:

        async def open_one(**fields: Any) -> AmqpBroker:
            options = {"codec": request.param, "namespace": namespace} | fields.pop("options", {})
            url = fields.pop("url", vhost)
            broker = AmqpBroker(BrokerConfig(url, options=options, **fields))
            await broker.open()
            stack.push_async_callback(broker.close)
            return broker

        yield open_one


@pytest.fixture
def queue() -> str:
    return f"amqp-{uuid.uuid4().hex[:8]}"
