"""taskq, with its defaults."""

import asyncio
import time
from typing import Any

from benchmarks.peers.given import BROKER, IN_FLIGHT, RESULTS, VARIANT, tally
from taskq import Task, TaskQ, group
from taskq.results.handles import AsyncResult, GroupResult
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


def worker(where: str = "benchmarks.peers.ours:app") -> list[str]:
    processes = ["--processes", VARIANT] if VARIANT else []
    return ["-m", "taskq", "-q", "-A", where, "worker", "-l", "warning", *processes]


async def start() -> None:
    await app.open_broker()


async def stop() -> None:
    await app.close()


async def call(i: int) -> AsyncResult[int]:
    return await noop.delay(i)


async def call_many(n: int, task: Task[Any, Any, Any] = noop) -> list[GroupResult[int]]:
    """Groups: each is one batch."""
    return [
        await group(task.s(i) for i in range(begin, min(n, begin + IN_FLIGHT))).apply_async()
        for begin in range(0, n, IN_FLIGHT)
    ]


async def call_concurrently(n: int) -> None:
    """A call each, at the same time, as different parts of a program make them."""
    for begin in range(0, n, IN_FLIGHT):
        await asyncio.gather(*(noop.delay(i) for i in range(begin, min(n, begin + IN_FLIGHT))))


async def round_trip(i: int) -> int:
    return await (await call(i))


async def awaited(n: int) -> None:
    for result in await call_many(n):
        await result


async def inside(n: int) -> dict[str, Any]:
    """Enqueue, then drain by a worker beside the client."""
    began = time.process_time(), time.perf_counter()
    await call_many(n)
    enqueued = time.process_time(), time.perf_counter()
    await drained(n)
    ended = time.process_time(), time.perf_counter()
    return {
        "enqueue": [after - before for after, before in zip(enqueued, began, strict=True)],
        "drain": [after - before for after, before in zip(ended, enqueued, strict=True)],
    }


async def drained(n: int) -> None:
    """Run a worker in this process until so many tasks have run."""
    running = Worker(app)
    task = asyncio.create_task(running.run())
    while tally.count < n:  # noqa: ASYNC110 - an event would cost every task something
        await asyncio.sleep(0.005)
    running.stop()
    await task
