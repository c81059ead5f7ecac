"""Fixtures of the whole suite, and what happens to tests whose server is not there."""

import asyncio
import os
from collections.abc import Callable
from functools import cache

import aio_pika
import pytest
import redis

from taskq.testing import AutojumpLoop

REDIS_URL = os.environ.get("TASKQ_TEST_REDIS", "redis://127.0.0.1:6379")
AMQP_URL = os.environ.get("TASKQ_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The Redis server for tests marked `redis`, without a database number: keep to one of your own."""
    return REDIS_URL


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """The RabbitMQ server for tests marked `rabbitmq`: keep to queue names or a virtual host of your own."""
    return AMQP_URL


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests marked `autojump` run on a loop that does not wait."""
    marked = item.get_closest_marker("autojump") is not None
    return {"autojump": AutojumpLoop} if marked else {"asyncio": asyncio.new_event_loop}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A missing server skips at home and fails in CI, where nobody would read the skip."""
    for marker, (url, problem) in SERVERS.items():
        if item.get_closest_marker(marker) is not None and (why := problem()):
            message = f"no {marker} server at {url.rpartition('@')[2]}: {why} (make test starts one)"
            if os.environ.get("CI"):
                pytest.fail(message, pytrace=False)
            pytest.skip(message)


@cache
def redis_problem() -> str:
    try:
        with redis.Redis.from_url(REDIS_URL, socket_timeout=5) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        return str(error)
    return ""


@cache
def rabbitmq_problem() -> str:
    async def connect() -> None:
        connection = await aio_pika.connect(AMQP_URL, timeout=5)
        await connection.close()

    try:
        asyncio.run(connect())
    except (aio_pika.exceptions.AMQPError, OSError, TimeoutError) as error:
        return str(error)
    return ""


SERVERS: dict[str, tuple[str, Callable[[], str]]] = {
    "redis": (REDIS_URL, redis_problem),
    "rabbitmq": (AMQP_URL, rabbitmq_problem),
}
