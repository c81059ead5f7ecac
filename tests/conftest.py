"""Fixtures of the whole suite, and what happens to tests whose server is not there."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import aio_pika
import hypothesis
import pytest
import redis

from taskq import TaskQ, registry
from taskq.testing import AutojumpLoop
from tests.harness import Place
from tests.rabbit import rabbit_vhost, remove_vhosts

REDIS_URL = os.environ.get("TASKQ_TEST_REDIS", "redis://127.0.0.1:6379")
AMQP_URL = os.environ.get("TASKQ_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long one example takes says more about the machine than about us.
    hypothesis.settings.register_profile("taskq", deadline=None)
    hypothesis.settings.load_profile("taskq")


def pytest_sessionfinish() -> None:
    remove_vhosts()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The Redis server for tests marked `redis`, without a database number: keep to one of your own."""
    return REDIS_URL


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """The RabbitMQ server for tests marked `rabbitmq`: keep to queue names or a virtual host of your own."""
    return AMQP_URL


#: The places of tests that run everywhere: a name here and the fixture `place_<name>`.
PLACES = ["memory", "sqlite"]
#: Those with the servers that tests share.
ALL_PLACES = [
    *PLACES,
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("rabbitmq", marks=[pytest.mark.redis, pytest.mark.rabbitmq]),
]


@pytest.fixture(params=PLACES)
def everywhere(request: pytest.FixtureRequest) -> Place:
    """Each place there is, fresh; tests take it by `place`, where it is overridden with this."""
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


@pytest.fixture(params=ALL_PLACES)
def on_all_brokers(request: pytest.FixtureRequest) -> Place:
    """The same with Redis, and with RabbitMQ and results on Redis."""
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


@pytest.fixture
def place_memory() -> Place:
    url = f"memory://{uuid.uuid4()}"
    return Place(url, url)


@pytest.fixture
def place_sqlite(tmp_path: Path) -> Place:
    url = f"sqlite:///{tmp_path}/taskq.db"
    return Place(url, url)


@pytest.fixture
def place_redis(redis_url: str) -> Iterator[Place]:
    """A prefix of its own in a database that tests share."""
    url, prefix = f"{redis_url}/10", f"taskq-test-{uuid.uuid4()}:"
    options = {"global_keyprefix": prefix}
    settings = {"broker_transport_options": options, "result_backend_transport_options": options}
    yield Place(url, url, settings)
    drop_keys(url, prefix)


@pytest.fixture(scope="session")
def session_vhost(amqp_url: str) -> Iterator[str]:
    with rabbit_vhost(amqp_url) as url:
        yield url


@pytest.fixture
def place_rabbitmq(session_vhost: str, redis_url: str) -> Iterator[Place]:
    """RabbitMQ for messages and Redis for results."""
    url, prefix = f"{redis_url}/10", f"taskq-test-{uuid.uuid4()}:"
    settings = {
        "task_default_queue": f"taskq-test-{uuid.uuid4().hex[:12]}",
        "result_backend_transport_options": {"global_keyprefix": prefix},
    }
    yield Place(session_vhost, url, settings)
    drop_keys(url, prefix)


@pytest.fixture
def place_rpc(session_vhost: str) -> Place:
    """RabbitMQ alone: results go to the caller."""
    settings = {"task_default_queue": f"taskq-test-{uuid.uuid4().hex[:12]}"}
    return Place(session_vhost, "rpc://", settings)


def drop_keys(url: str, prefix: str) -> None:
    with redis.Redis.from_url(url) as client:
        if keys := list(client.scan_iter(f"{prefix}*", count=1000)):
            client.delete(*keys)


@pytest.fixture
def place(place_memory: Place) -> Place:
    """Where the app of a test keeps its messages: in memory, unless a folder's conftest says otherwise."""
    return place_memory


@pytest.fixture
async def app(place: Place) -> AsyncIterator[TaskQ]:
    """A fresh app of the name proj."""
    async with place.app() as app:
        yield app


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


@pytest.fixture(autouse=True)
def shared_tasks() -> Iterator[None]:
    """Tasks that a test shares with every app of the process are its own."""
    before = dict(registry.shared)
    yield
    registry.shared.clear()
    registry.shared.update(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was captured of broken messages is made writable: it travels between processes as UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report
