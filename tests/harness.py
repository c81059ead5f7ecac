"""An app and a worker for tests: in the test's own loop, on each broker there is."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from taskq import TaskQ
from taskq.worker import Worker
from taskq.worker.worker import Stop


@dataclass(frozen=True)
class Place:
    """Where an app keeps its messages and results; `settings` are further settings of the app."""

    broker: str
    backend: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def app(self, **settings: Any) -> TaskQ:
        """A fresh app here."""
        return TaskQ("proj", broker=self.broker, backend=self.backend, **{**self.settings, **settings})


@asynccontextmanager
async def running(app: TaskQ, **options: Any) -> AsyncIterator[Worker]:
    """A worker in the test's loop, ready; drained at the end, or stopped at once if the test has failed."""
    ready = asyncio.Event()
    worker = Worker(app, on_ready=ready.set, **options)
    run = asyncio.create_task(worker.run())
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([run, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not run.done():
            yield worker
    except BaseException:
        worker.stop(Stop.COLD)
        raise
    finally:
        waiting.cancel()
        worker.stop()
        await run
