"""Celery on Redis or RabbitMQ; the variant is the pool of its worker. Early acknowledgement, its default."""

import logging

from celery import Celery
from celery.result import ResultSet

from benchmarks.peers.given import BROKER, RESULTS, VARIANT, tally

logging.basicConfig(level=logging.WARNING)
app = Celery("bench", broker=BROKER, backend=RESULTS or None)
app.conf.update(
    task_ignore_result=not RESULTS,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=100,
    broker_connection_retry_on_startup=True,
)
# One connection for all calls, held for good: what `delay` otherwise takes from the pool each time.
producer = None


@app.task(name="noop")
def noop(i):
    tally.hit()
    return i


def worker():
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
    pool = ["-P", VARIANT, "-c", "1"]
    return ["-m", "celery", "-A", "benchmarks.peers.celery_app", "worker", *pool, *quiet]


async def start():
    global producer  # noqa: PLW0603 - one client per process
    producer = app.amqp.Producer(app.connection_for_write())


async def stop():
    app.close()


async def call(i):
    return noop.apply_async((i,), producer=producer)


async def call_many(n):
    return [noop.apply_async((i,), producer=producer) for i in range(n)]


async def round_trip(i):
    handle = await call(i)
    return handle.get()


async def awaited(n):
    handles = await call_many(n)
    ResultSet(handles).join_native()
