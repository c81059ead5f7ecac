"""The tasks of the tour. `taskq worker -A tasks -Q celery,priority.high` runs them; no server is needed."""

import asyncio

from taskq import Request, Task, TaskQ

app = TaskQ("tour")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
def multiply(x: int, y: int) -> int:
    """A plain function: it runs in a thread of the worker."""
    return x * y


@app.task
async def divide(x: int, y: int) -> float:
    return x / y


@app.task
async def on_error(request: Request, exc: Exception, traceback: str) -> None:
    """Called when a task that names it as `link_error` has failed."""
    print(
        f"Task {request.id} raised {exc!r}, after a traceback of {len(traceback.splitlines())} lines",
        flush=True,
    )


@app.task(bind=True)
async def hello(self: Task, a: int, b: int) -> str:
    """Says how far it is."""
    await asyncio.sleep(0.6)
    await self.update_state(state="PROGRESS", meta={"progress": 50})
    await asyncio.sleep(0.6)
    await self.update_state(state="PROGRESS", meta={"progress": 90})
    await asyncio.sleep(0.6)
    return f"hello world: {a + b}"
