"""The tasks of the trials, for a taskq worker. `jobs_celery` has the same ones."""

import asyncio
import os
import time

from taskq import TaskQ

app = TaskQ("jobs")


def note(event: str, number: object) -> None:
    """One line, written at once: it is whole even after kill -9."""
    with open(os.environ["JOBS_LOG"], "a", encoding="ascii") as log:  # noqa: PTH123 - as short as can be
        log.write(f"{event} {number if isinstance(number, int) else -2} {time.time()} {os.getpid()}\n")


@app.task(name="jobs.job")
async def job(number: int, seconds: float = 0.0) -> int:
    note("start", number)
    await asyncio.sleep(seconds)
    note("end", number)
    return os.getpid()


@app.task(name="jobs.noop")
async def noop() -> None:
    """Nothing."""


@app.task(name="jobs.blocking")
async def blocking(number: int, seconds: float) -> int:
    """Holds the event loop."""
    note("start", number)
    time.sleep(seconds)  # noqa: ASYNC251 - what is tried
    note("end", number)
    return os.getpid()


@app.task(name="jobs.waiting", time_limit=3)
async def waiting(number: int) -> None:
    note("start", number)
    await asyncio.Event().wait()


@app.task(name="jobs.spinning", time_limit=3)
async def spinning(number: int) -> None:
    """Holds the event loop."""
    note("start", number)
    while True:
        pass
