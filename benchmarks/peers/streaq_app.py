"""streaq on Redis streams."""

import asyncio
import logging
from datetime import timedelta

from streaq import Worker

from benchmarks.peers.given import BROKER, CONCURRENCY, IN_FLIGHT, RESULTS, tally

logging.disable(logging.INFO)  # its command line has no quieter level
WAITERS = 50  # each takes a connection of the pool
worker_app = Worker(redis_url=BROKER, concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker_app.task(name="noop", ttl=timedelta(days=1) if RESULTS else 0, silent=True)
async def noop(i: int) -> int:
    tally.hit()
    return i


def worker():
    return ["-m", "streaq", "run", "benchmarks.peers.streaq_app:worker_app"]


async def start():
    await worker_app.__aenter__()


async def stop():
    await worker_app.__aexit__(None, None, None)


async def call(i):
    task = noop.enqueue(i)
    await worker_app.enqueue_many([task])
    return task


async def call_many(n):
    tasks = [noop.enqueue(i) for i in range(n)]
    for begin in range(0, n, IN_FLIGHT):
        await worker_app.enqueue_many(tasks[begin : begin + IN_FLIGHT])
    return tasks


async def call_concurrently(n):
    for begin in range(0, n, IN_FLIGHT):
        await asyncio.gather(*map(call, range(begin, min(n, begin + IN_FLIGHT))))


async def round_trip(i):
    return await (await call(i)).result()


async def awaited(n):
    waiting = asyncio.Semaphore(WAITERS)

    async def result(task):
        async with waiting:
            return await task.result()

    await asyncio.gather(*map(result, await call_many(n)))
