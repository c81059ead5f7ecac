"""The brokers the trials take place on: private servers that can be killed, cut off and filled."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import aio_pika

from scripts.hazards.poison import RAW, changed, entries
from tests.servers import RabbitServer, RedisServer, rabbit_server, redis_server


class Place(Protocol):
    """A server of one's own."""

    url: str
    port: int
    pause: float  # seconds after which taskq's silent worker is given up for certain

    def start(self) -> None: ...
    def kill(self) -> None: ...

    def behind(self, port: int) -> str:
        """The URL for who comes through a proxy at this port."""
        ...

    def fill(self) -> None:
        """Take nothing more."""
        ...

    def relieve(self) -> None: ...

    async def poison(self) -> list[object]:
        """Take the one good entry out of the queue; returns the bad ones made from it, for `put`."""
        ...

    async def put(self, entry: object) -> None: ...

    async def left(self) -> tuple[int, int]:
        """How many entries are in the queue, and in the dead letters."""
        ...


class RedisPlace:
    pause = 15.0

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

    async def poison(self) -> list[object]:
        return list(entries(cast("bytes", self._redis.rpop("celery"))))

    async def put(self, entry: object) -> None:
        self._redis.lpush("celery", cast("bytes", entry))

    async def left(self) -> tuple[int, int]:
        return self._redis.llen("celery"), self._redis.hlen("taskq:dead")


class RabbitPlace:
    pause = 50.0  # three heartbeats of taskq; Celery's are of 60 s

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

    async def poison(self) -> list[object]:
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            good = await (await channel.get_queue("celery")).get(no_ack=True)
        envelope: dict[str, object] = {
            "body": base64.b64encode(good.body).decode(),
            "headers": dict(good.headers),
            "content-type": good.content_type,
            "content-encoding": good.content_encoding,
            "properties": {"correlation_id": good.correlation_id, "delivery_tag": "", "delivery_info": {}},
        }
        unreadable = [aio_pika.Message(raw, content_type="application/json") for raw in RAW]
        return [*unreadable, *map(_message, changed(json.dumps(envelope).encode()))]

    async def put(self, entry: object) -> None:
        async with await aio_pika.connect(self.url) as connection:
            exchange = (await connection.channel()).default_exchange
            await exchange.publish(cast("aio_pika.Message", entry), "celery")

    async def left(self) -> tuple[int, int]:
        listed = await asyncio.to_thread(
            self._control, "list_queues", "name", "messages", "--no-table-headers"
        )
        counts = dict(line.split("\t") for line in listed.splitlines())
        return int(counts.get("celery", 0)), int(counts.get("taskq.dead", 0))


def _message(envelope: dict[str, Any]) -> aio_pika.Message:
    return aio_pika.Message(
        base64.b64decode(envelope["body"]),
        headers=envelope.get("headers"),
        content_type=envelope["content-type"],
        content_encoding=envelope["content-encoding"],
    )


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
