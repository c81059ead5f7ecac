"""Each broker there is, as the real command sees it: an URL for broker and results, fresh for a test."""

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from yarl import URL

from taskq.seams.broker import BrokerConfig, open_broker
from tests.rabbit import rabbit_vhost, rabbitmqctl
from tests.servers import redis_server


@dataclass(frozen=True)
class Site:
    """Where the commands of a test keep their messages and results, and how long a dead worker keeps its own."""

    broker: str
    backend: str
    lease: float

    @property
    def env(self) -> dict[str, str]:
        """For the processes of the test."""
        return {
            "TASKQ_BROKER_URL": self.broker,
            "TASKQ_RESULT_BACKEND": self.backend,
            "TASKQ_LEASE_SECONDS": str(self.lease),
        }

    async def waiting(self) -> int:
        """How many messages wait in the broker, delayed ones included."""
        if self.broker.startswith("amqp"):
            vhost = URL(self.broker).path.removeprefix("/")
            listed = await asyncio.to_thread(
                rabbitmqctl, "list_queues", "-p", vhost, "messages", "--no-table-headers"
            )
            return sum(map(int, listed.split()))
        broker = open_broker(BrokerConfig(self.broker))
        await broker.open()
        try:
            return await broker.size("celery")
        finally:
            await broker.close()


@pytest.fixture
def site_sqlite(tmp_path: Path) -> Site:
    url = f"sqlite:///{tmp_path}/{uuid.uuid4().hex[:8]}.db"
    return Site(url, url, lease=2.0)


@pytest.fixture
def site_redis(tmp_path: Path) -> Iterator[Site]:
    with redis_server(tmp_path) as server:
        yield Site(server.url, server.url, lease=2.0)


@pytest.fixture
def site_amqp(amqp_url: str, tmp_path: Path) -> Iterator[Site]:
    """Results in SQLite: those of rpc:// can be read by their caller alone."""
    with rabbit_vhost(amqp_url) as url:
        yield Site(url, f"sqlite:///{tmp_path}/results.db", lease=2.0)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def leased(request: pytest.FixtureRequest) -> Site:
    """The brokers that know of a dead worker by its lease alone."""
    found = request.getfixturevalue(f"site_{request.param}")
    assert isinstance(found, Site)
    return found


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
    ]
)
def site(request: pytest.FixtureRequest) -> Site:
    found = request.getfixturevalue(f"site_{request.param}")
    assert isinstance(found, Site)
    return found
