"""The adapters under contract. A new one is a name in `BROKERS` or `STORES` and the fixture of that name.

`broker_<name>` gives a `BrokerSite`, `store_<name>` a `StoreSite`: fresh for each test.
"""

import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from taskq.broker_adapters.amqp.results import RpcStore
from taskq.broker_adapters.memory.broker import HUBS
from taskq.broker_adapters.memory.store import HUBS as STORE_HUBS
from taskq.broker_adapters.redis.store import RedisStore
from taskq.broker_adapters.sqlite.queues import Outgoing, publish
from taskq.broker_adapters.sqlite.store import SqliteStore
from taskq.seams.broker import Broker, BrokerConfig, Queue, open_broker
from taskq.seams.store import ResultStore, StoreConfig, open_store
from tests.contract import folder
from tests.contract.sites import BrokerSite, ConnectBroker, ConnectStore, StoreSite
from tests.rabbit import rabbit_vhost

BROKERS = [
    "folder",
    "memory",
    "sqlite",
    pytest.param("amqp", marks=pytest.mark.rabbitmq),
    pytest.param("amqp_plain", marks=pytest.mark.rabbitmq),
    pytest.param("redis", marks=pytest.mark.redis),
]
STORES = [
    "memory",
    "sqlite",
    pytest.param("redis", marks=pytest.mark.redis),
]


@pytest.fixture
def broker_folder(tmp_path: Path) -> BrokerSite:
    url = f"folder://{tmp_path}"
    assert folder.FolderBroker.features.persistent

    async def put_raw(queue: str, raw: bytes) -> None:
        (tmp_path / queue).mkdir(exist_ok=True)
        (tmp_path / queue / "0-foreign.json").write_bytes(raw)

    return BrokerSite(url, put_raw=put_raw, least=True)


@pytest.fixture
def broker_memory() -> BrokerSite:
    url = f"memory://{uuid.uuid4()}"

    async def put_raw(queue: str, raw: bytes) -> None:
        HUBS[url].add([(queue, 0, raw)])

    return BrokerSite(url, put_raw=put_raw)


@pytest.fixture
def broker_sqlite(tmp_path: Path) -> BrokerSite:
    url = f"sqlite:///{tmp_path}/queues/taskq.db"

    async def put_raw(queue: str, raw: bytes) -> None:
        with closing(sqlite3.connect(tmp_path / "queues" / "taskq.db")) as db, db:
            publish(db, [Outgoing(queue, 0, raw, None)])

    return BrokerSite(url, put_raw=put_raw, unreachable=f"sqlite:///{__file__}/taskq.db")


@pytest.fixture(scope="session")
def amqp_vhost(amqp_url: str) -> Iterator[str]:
    with rabbit_vhost(amqp_url) as url:
        yield url


def amqp_site(url: str, **options: object) -> BrokerSite:
    unique = uuid.uuid4().hex[:8]
    return BrokerSite(
        url,
        options={"namespace": f"taskq-{unique}"} | options,
        queue=lambda name: Queue(name, arguments={"x-max-priority": 10}),
        rename=lambda name: f"{name}-{unique}",
        unreachable="amqp://guest:s3cret@127.0.0.1:1//",
        counts_delayed=False,
    )


@pytest.fixture
def broker_amqp(amqp_vhost: str) -> BrokerSite:
    return amqp_site(amqp_vhost)


@pytest.fixture
def broker_amqp_plain(amqp_vhost: str) -> BrokerSite:
    return amqp_site(amqp_vhost, codec=False)


@pytest.fixture
async def broker_redis(redis_url: str) -> AsyncIterator[BrokerSite]:
    """All keys begin with a prefix of the test's own: the server is shared."""
    prefix = f"taskq-test-{uuid.uuid4()}:"
    client = Redis.from_url(f"{redis_url}/9")

    async def put_raw(queue: str, raw: bytes) -> None:
        await client.eval("return redis.call('LPUSH', KEYS[1], ARGV[1])", 1, prefix + queue, raw)

    yield BrokerSite(
        f"{redis_url}/9",
        options={"global_keyprefix": prefix},
        urgent_first=(0, 3, 6, 9),
        put_raw=put_raw,
        unreachable="redis://user:s3cret@127.0.0.1:1/0",
    )
    await client.aclose()
    await delete_keys(f"{redis_url}/9", prefix)


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest) -> BrokerSite:
    found = request.getfixturevalue(f"broker_{request.param}")
    assert isinstance(found, BrokerSite)
    return found


@pytest.fixture
def able(site: BrokerSite) -> None:
    """For tests of what the least broker cannot do."""
    if site.least:
        pytest.skip("the least broker leaves this to the defaults of the seam")


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


@pytest.fixture
def store_memory() -> StoreSite:
    url = f"memory://{uuid.uuid4()}"
    return StoreSite(url, watchers=lambda _, task_id: STORE_HUBS[url].watchers(task_id))


@pytest.fixture
async def store_redis(redis_url: str) -> AsyncIterator[StoreSite]:
    prefix = f"taskq-test-{uuid.uuid4()}:"
    url = f"{redis_url}/9"

    def watchers(store: ResultStore, task_id: str) -> int:
        assert isinstance(store, RedisStore)
        return store.watchers(task_id)

    yield StoreSite(
        url,
        watchers=watchers,
        options={"global_keyprefix": prefix},
        unreachable="redis://user:s3cret@127.0.0.1:1/0",
    )
    await delete_keys(url, prefix)


async def delete_keys(url: str, prefix: str) -> None:
    async with Redis.from_url(url) as client:
        if keys := [key async for key in client.scan_iter(f"{prefix}*", count=1000)]:
            await client.delete(*keys)


@pytest.fixture
def store_sqlite(tmp_path: Path) -> StoreSite:
    def watchers(store: ResultStore, task_id: str) -> int:
        assert isinstance(store, SqliteStore)
        return store.feed.watchers(task_id)

    url = f"sqlite:///{tmp_path}/results/taskq.db"
    return StoreSite(url, watchers=watchers, unreachable=f"sqlite:///{__file__}/taskq.db")


@pytest.fixture
def store_rpc(amqp_vhost: str) -> StoreSite:
    def watchers(store: ResultStore, task_id: str) -> int:
        assert isinstance(store, RpcStore)
        return store.watchers(task_id)

    options = {"namespace": f"taskq-{uuid.uuid4().hex[:8]}"}
    return StoreSite(f"rpc+{amqp_vhost}", watchers=watchers, options=options)


@pytest.fixture(params=STORES)
def store_site(request: pytest.FixtureRequest) -> StoreSite:
    found = request.getfixturevalue(f"store_{request.param}")
    assert isinstance(found, StoreSite)
    return found


@pytest.fixture
async def connect_store(store_site: StoreSite) -> AsyncIterator[ConnectStore]:
    async with AsyncExitStack() as stack:

        async def open_one(*, expires: float | None = 3600.0) -> ResultStore:
            store = open_store(StoreConfig(store_site.url, expires=expires, options=store_site.options))
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield open_one
