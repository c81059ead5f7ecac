"""A broker that taskq and Celery's own tools share, fresh for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult

from tests.rabbit import rabbit_vhost
from tests.servers import redis_server
from tests.wire.fleet import CELERY, TASKS, CeleryCommand, running_celery, running_flower, shared_backend


@pytest.fixture(scope="session", autouse=True)
def silent_results() -> Iterator[None]:
    """Celery's results unsubscribe when they are collected: twenty tries of a second in whatever test that is, where
    their server is gone by then, as those of tests are.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(AsyncResult, "__del__")
        yield


@pytest.fixture
def url_redis(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as server:
        yield server.url


@pytest.fixture
def url_amqp(amqp_url: str) -> Iterator[str]:
    with rabbit_vhost(amqp_url) as url:
        yield url


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"url_{request.param}")
    return found


@pytest.fixture
def folder(tmp_path: Path, url: str) -> Path:
    """With both apps of the same broker in it."""
    home = tmp_path / "project"
    home.mkdir()
    (home / "proj.py").write_text(TASKS)
    (home / "celeryapp.py").write_text(CELERY.format(url=url, backend=shared_backend(url)))
    return home


@pytest.fixture(scope="session")
def celery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryCommand]:
    """Celery's own command."""
    command = CeleryCommand(tmp_path_factory.mktemp("celery"))
    yield command
    command.close()


@pytest.fixture
def celery_worker(folder: Path) -> Iterator[str]:
    """Its node name. It may not be ready yet."""
    node = "real@test"
    with running_celery(folder, "worker", "-n", node, "-P", "solo", "-E"):
        yield node


@pytest.fixture
def flower(folder: Path) -> Iterator[int]:
    """Its port. It may not be ready yet."""
    with running_flower(folder) as port:
        yield port
