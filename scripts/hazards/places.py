"""The brokers the trials take place on: private servers that can be killed, cut off and filled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from scripts.hazards.poison import entries
from scripts.hazards.sides import LEASE
from tests.servers import RabbitServer, RedisServer, rabbit_server, redis_server


class Place(Protocol):
    """A server of one's own."""

    url: str
    port: int
    pause: float  # seconds after which taskq's silent worker is given up for certain
    silence: float  # seconds in which taskq's worker lets itself be heard
    takes_bytes: bool  # a queue is a list of bytes

    def start(self) -> None: ...
    def kill(self) -> None: ...

    def behind(self, port: int) -> str:
        """The URL for who comes through a proxy at this port."""
        ...

    def fill(self) -> None:
        """Take nothing more."""
        ...

    def relieve(self) -> None: ...

    async def entries(self) -> list[bytes]:
        """Where a queue is a list of bytes: take the one good entry out, and make bad ones from it."""
        ...

    async def put(self, entry: bytes) -> None: ...


class RedisPlace:
    pause, silence = 15.0, LEASE
    takes_bytes = True

    def __init__(self, server: RedisServer) -> None:
        self.url, self.port = server.url, server.port
        self.start, self.kill = server.start, server.kill
        self._redis = server.client()

    def behind(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def fill(self) -> None:
        self._redis.config_set("maxmemory-policy", "noeviction")
        self._redis.config_set("maxmemory", 1)

    def relieve(self) -> None:
        self._redis.config_set("maxmemory", 0)

    async def entries(self) -> list[bytes]:
        return entries(cast("bytes", self._redis.rpop("celery")))

    async def put(self, entry: bytes) -> None:
        self._redis.lpush("celery", entry)


class RabbitPlace:
    pause, silence = 50.0, 15.0  # three heartbeats of taskq, and one; Celery's are of 60 s
    takes_bytes = False

    def __init__(self, server: RabbitServer) -> None:
        self.url, self.port = server.url, server.port
        self.start, self.kill = server.start, server.kill
        self._control = server.control

    def behind(self, port: int) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port}//"

    def fill(self) -> None:
        self._control("set_vm_memory_high_watermark", "0.00001")

    def relieve(self) -> None:
        self._control("set_vm_memory_high_watermark", "0.4")

    async def entries(self) -> list[bytes]:
        return []

    async def put(self, entry: bytes) -> None:
        raise NotImplementedError


@contextmanager
def place(broker: str, folder: Path, trial: str) -> Iterator[Place | None]:
    """A server for a trial; none for SQLite."""
    if broker == "redis":
        with redis_server(folder, aof=trial == "c") as redis:
            yield RedisPlace(redis)
    elif broker == "amqp":
        with rabbit_server(folder) as rabbit:
            yield RabbitPlace(rabbit)
    else:
        yield None
