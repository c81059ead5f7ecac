"""Tasks that write down when they begin and end, for tests that kill their worker."""

import asyncio
import os

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
async def poison() -> None:
    os._exit(3)
