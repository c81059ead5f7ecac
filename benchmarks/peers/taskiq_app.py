"""taskiq on Redis (its list broker, the cheapest of three) or RabbitMQ, results on Redis."""

import asyncio
import logging

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.peers.given import BROKER, CONCURRENCY, IN_FLIGHT, RESULTS, tally

logging.basicConfig(level=logging.WARNING)
POOL = 100  # connections


def _broker():
    if BROKER.startswith("amqp"):
        from taskiq_aio_pika import AioPikaBroker  # noqa: PLC0415 - only for RabbitMQ

        return AioPikaBroker(BROKER, qos=4 * CONCURRENCY)
    return ListQueueBroker(BROKER, max_connection_pool_size=POOL)


broker = _broker()
if RESULTS:
    broker = broker.with_result_backend(
        RedisAsyncResultBackend(RESULTS, result_ex_time=86400, max_connection_pool_size=POOL)
    )


@broker.task(task_name="noop")
async def noop(i: int) -> int:
    tally.hit()
    return i


def worker():
    size = ["--workers", "1", "--max-async-tasks", str(CONCURRENCY)]
    return ["-m", "taskiq", "worker", "benchmarks.peers.taskiq_app:broker", "--log-level", "WARNING", *size]


async def start():
    await broker.startup()


async def stop():
    await broker.shutdown()


async def call(i):
    return await noop.kiq(i)


async def call_many(n):
    handles = []
    for begin in range(0, n, IN_FLIGHT):
        handles += await asyncio.gather(*(noop.kiq(i) for i in range(begin, min(n, begin + IN_FLIGHT))))
    return handles


async def round_trip(i):
    handle = await call(i)
    return await handle.wait_result(check_interval=0.001)


async def awaited(n):
    handles = await call_many(n)
    await asyncio.gather(*(handle.wait_result(check_interval=0.2) for handle in handles))
