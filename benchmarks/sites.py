"""The brokers to measure on: private servers on free ports, ended and removed with the stack."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aio_pika
from redis import Redis

from benchmarks.harness import Site
from scripts import servers

#: The names that the systems give to their queues on RabbitMQ.
QUEUES = ("celery", "default", "default.DQ", "default.XQ", "taskiq", "taskiq.dead_letter")


def memory(_: ExitStack) -> Site:
    return Site("memory://bench", "memory://bench")


def sqlite(_: ExitStack) -> Site:
    return Site("{folder}/queue.db", "{folder}/queue.db")


def redis(stack: ExitStack) -> Site:
    url, pid = _redis(stack)
    return Site(url, url, [pid], lambda: _flush(url))


def amqp(stack: ExitStack) -> Site:
    """RabbitMQ, and a Redis for the results: its CPU counts to the server's."""
    results, pid = _redis(stack)
    url, server = servers.start_rabbitmq(stack)
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # it does not answer at once
    servers.wait_until(lambda: servers.rabbitmq_answers(url), "RabbitMQ", server)
    beam = [child for child in _descendants(os.getpid()) if _command(child) == "beam.smp"]

    def clean() -> None:
        _flush(results)
        asyncio.run(_delete_queues(url))

    return Site(url, results, [pid, *beam], clean)


async def _delete_queues(url: str) -> None:
    """What a system that was killed had not acknowledged would come back to the next."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for name in QUEUES:
            await channel.queue_delete(name)


def _redis(stack: ExitStack) -> tuple[str, int]:
    url, server = servers.start_redis(stack)
    servers.wait_until(lambda: servers.redis_answers(url), "Redis", server)
    with Redis.from_url(url) as client:
        return url + "/0", int(client.info("server")["process_id"])


def _flush(url: str) -> None:
    with Redis.from_url(url) as client:
        client.flushall()


def _descendants(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            yield child
            yield from _descendants(child)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
