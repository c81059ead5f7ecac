"""Where the soak takes place: private servers behind a proxy that can be killed and cut off, or a SQLite file."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from tests.proxy import Proxy, proxy
from tests.servers import RabbitServer, RedisServer, rabbit_server, redis_server


@dataclass(frozen=True)
class Server:
    """A server behind a proxy."""

    process: RedisServer | RabbitServer
    network: Proxy


@dataclass(frozen=True)
class Place:
    """A broker of one's own."""

    url: str
    results: str
    #: Seconds after which a silent worker is given up for certain.
    pause: float
    #: Seconds after the last fault within which all must have run.
    patience: float
    #: What is in it, by name.
    left: Callable[[], dict[str, int]]
    #: None for a file, which nobody can kill or cut off.
    server: Server | None = None


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[Place]:
    """With its log on disk, so that nothing confirmed is lost with it."""
    with redis_server(folder, aof=True) as server:
        async with proxy(server.port) as network:
            url = f"redis://127.0.0.1:{network.port}/0"
            yield Place(url, url, 5.0, 60.0, lambda: keys(server), Server(server, network))


def keys(server: RedisServer) -> dict[str, int]:
    """How many keys of each kind: of a name with an id or a time in it, the kind is what is in front."""
    with server.client() as client:
        names = [name.decode(errors="replace") for name in client.scan_iter(count=1000)]
        return dict(Counter(kind(name) for name in names))


def kind(name: str) -> str:
    """`celery-task-meta-<id>` is `celery-task-meta`."""
    return name.partition("-meta-")[0] + "-meta" if "-meta-" in name else name


@asynccontextmanager
async def amqp(folder: Path) -> AsyncIterator[Place]:
    """Results go to a file: `rpc://` keeps them for whoever stays connected.

    A message that is on its way from one delay to the next when RabbitMQ dies is sent on after
    `dead_letter_worker_publisher_confirm_timeout`, 3 minutes: hence the patience.
    """
    with rabbit_server(folder) as server:
        async with proxy(server.port) as network:
            url = f"amqp://guest:guest@127.0.0.1:{network.port}//"
            results = f"sqlite:///{folder}/results.db"
            yield Place(url, results, 8.0, 240.0, lambda: queues(server), Server(server, network))


def queues(server: RabbitServer) -> dict[str, int]:
    """The messages in each queue; queues of the delayed delivery only if there are any."""
    listed = server.control("list_queues", "name", "messages", "--no-table-headers")
    found = {
        name: int(count) for name, _, count in (line.partition("\t") for line in listed.splitlines()) if name
    }
    return {name: count for name, count in found.items() if count or not name.startswith("celery_delayed_")}


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Place]:
    path = folder / "taskq.db"
    url = f"sqlite:///{path}"
    yield Place(url, url, 5.0, 60.0, lambda: rows(path))


def rows(path: Path) -> dict[str, int]:
    """The rows of each table."""
    with closing(sqlite3.connect(path)) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: file.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {
    "redis": redis,
    "amqp": amqp,
    "sqlite": sqlite,
}
