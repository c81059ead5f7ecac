"""The adapters under contract. A new one is a name in `BROKERS` or `STORES` and the fixture of that name.

`broker_<name>` gives a `BrokerSite`, `store_<name>` a `StoreSite`: fresh for each test.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from taskq.broker import Broker, BrokerConfig, open_broker
from taskq.broker_adapters.memory import HUBS
from tests.contract.sites import BrokerSite, ConnectBroker

BROKERS = [
    "memory",
]


@pytest.fixture
def broker_memory() -> BrokerSite:
    url = f"memory://{uuid.uuid4()}"

    async def put_raw(queue: str, raw: bytes) -> None:
        HUBS[url].add([(queue, 0, raw)])

    return BrokerSite(url, put_raw=put_raw)


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest) -> BrokerSite:
    found = request.getfixturevalue(f"broker_{request.param}")
    assert isinstance(found, BrokerSite)
    return found


@pytest.fixture
async def connect(site: BrokerSite) -> AsyncIterator[ConnectBroker]:
    async with AsyncExitStack() as stack:

        async def open_one(*, lease: float = 30.0) -> Broker:
            config = BrokerConfig(site.url, lease=lease, queue=site.queue, options=site.options)
            broker = open_broker(config)
            await broker.open()
            stack.push_async_callback(broker.close)
            return broker

        yield open_one
