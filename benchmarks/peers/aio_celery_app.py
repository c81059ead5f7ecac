"""aio-celery on RabbitMQ, results on Redis."""

import asyncio

from aio_celery import Celery

from benchmarks.peers.given import BROKER, CONCURRENCY, IN_FLIGHT, RESULTS, tally

app = Celery()
app.conf.update(broker_url=BROKER, result_backend=RESULTS or None, task_ignore_result=not RESULTS)


@app.task(name="noop")
async def noop(i):
    tally.hit()
    return i


def worker():
    with_uvloop = "import uvloop; uvloop.install(); from aio_celery.__main__ import main; main()"
    size = ["-c", str(CONCURRENCY), "-l", "WARNING"]
    return ["-c", with_uvloop, "worker", "benchmarks.peers.aio_celery_app:app", *size]


setup = app.setup()


async def start():
    await setup.__aenter__()


async def stop():
    await setup.__aexit__(None, None, None)


async def call(i):
    return await noop.delay(i)


async def call_many(n):
    handles = []
    for begin in range(0, n, IN_FLIGHT):
        handles += await asyncio.gather(*(noop.delay(i) for i in range(begin, min(n, begin + IN_FLIGHT))))
    return handles


async def round_trip(i):
    handle = await call(i)
    return await handle.get(interval=0.001)


async def awaited(n):
    handles = await call_many(n)
    await asyncio.gather(*(handle.get(interval=0.2) for handle in handles))
