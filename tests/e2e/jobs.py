"""Tasks that write down when they begin and end, for tests that kill their worker."""

import asyncio
import ctypes
import os
import subprocess
import time
from typing import Any

from taskq import TaskQ

app = TaskQ("jobs")

LOG = os.environ.get("JOBS_LOG", "jobs.log")


def note(event: str, number: int) -> None:
    """One line, written at once: appended lines of this size are whole even after kill -9."""
    with open(LOG, "a", encoding="ascii") as log:  # noqa: PTH123 - a line as short and direct as can be
        log.write(f"{event} {number}\n")


@app.task
async def job(number: int, seconds: float = 0.005) -> int:
    note("start", number)
    await asyncio.sleep(seconds)
    note("end", number)
    return number


@app.task
async def blocking(number: int, seconds: float) -> int:
    """Holds the event loop, as no task should."""
    note("start", number)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    note("end", number)
    return number


@app.task(bind=True)
async def answered_by(self: Any, number: int, seconds: float) -> str:
    note("start", number)
    await asyncio.sleep(seconds)
    note("end", number)
    return str(self.request.hostname)


@app.task(time_limit=1.0)
async def stuck(number: int) -> None:
    note("start", number)
    while True:
        pass


@app.task
async def poison() -> None:
    os._exit(3)


@app.task(time_limit=1.0)
async def holds_the_interpreter(number: int) -> None:
    """No thread of the process runs meanwhile."""
    note("start", number)
    ctypes.PyDLL(None).sleep(120)


@app.task
async def holds_it_without_a_limit(number: int, seconds: int) -> None:
    note("start", number)
    ctypes.PyDLL(None).sleep(seconds)


@app.task(run_in="process")
def in_a_process(number: int) -> None:
    """Such a process writes down its id, starts another, and holds its interpreter."""
    child = subprocess.Popen(["sleep", "120"])
    note("start", os.getpid())
    note("start", child.pid)
    ctypes.PyDLL(None).sleep(120)
