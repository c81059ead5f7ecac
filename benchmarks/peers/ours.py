"""taskq, with its defaults."""

import asyncio
import logging
import time
from typing import Any

import uvloop

from benchmarks.peers.given import BROKER, IN_FLIGHT, RESULTS, tally
from taskq import TaskQ
from taskq.results import AsyncResult
from taskq.worker import Worker


def _url(address: str) -> str:
    return address if "://" in address else f"sqlite:///{address}"


app = TaskQ(
    "bench",
    broker=_url(BROKER),
    backend=_url(RESULTS) if RESULTS else "disabled://",
    task_ignore_result=not RESULTS,
)


@app.task
async def noop(i: int) -> int:
    tally.hit()
    return i


def worker() -> list[str]:
    return ["-c", "from benchmarks.peers.ours import work; work()"]


async def start() -> None:
    await app.open_broker()


async def stop() -> None:
    await app.close()


async def call(i: int) -> AsyncResult[int]:
    return await noop.delay(i)


async def call_many(n: int) -> list[AsyncResult[int]]:
    handles = []
    for begin in range(0, n, IN_FLIGHT):
        handles += await asyncio.gather(*(noop.delay(i) for i in range(begin, min(n, begin + IN_FLIGHT))))
    return handles


async def round_trip(i: int) -> int:
    return await (await call(i))


async def awaited(n: int) -> None:
    await asyncio.gather(*(handle.get() for handle in await call_many(n)))


async def inside(n: int) -> dict[str, Any]:
    """Enqueue, then drain by a worker beside the client."""
    await app.open_store()
    began = time.process_time(), time.perf_counter()
    await call_many(n)
    enqueued = time.process_time(), time.perf_counter()
    running = Worker(app)
    task = asyncio.create_task(running.run())
    while tally.count < n:  # noqa: ASYNC110 - an event would cost every task something
        await asyncio.sleep(0.005)
    running.stop()
    await task
    ended = time.process_time(), time.perf_counter()
    return {
        "enqueue": [after - before for after, before in zip(enqueued, began, strict=True)],
        "drain": [after - before for after, before in zip(ended, enqueued, strict=True)],
    }


def work() -> None:
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(Worker(app).run())
