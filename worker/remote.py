"""What connects a worker with its operators: remote control and heartbeats, in tasks beside the work."""

import asyncio
import logging

from taskq.worker.control import RemoteControl
from taskq.worker.panel import Panel

logger = logging.getLogger("taskq.worker")


class Remote:
    """Runs both. Whatever happens to them, the work goes on.

    Args:
        obeys: False: heartbeats and events alone.
    """

    def __init__(self, panel: Panel, *, obeys: bool) -> None:
        self._control = RemoteControl(panel) if obeys else None
        self._events = panel.events
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen, so that commands are heard from when the worker says it is ready."""
        if self._control is not None:
            await self._control.open()

    def start(self) -> None:
        """Begin."""
        self._tasks.append(asyncio.create_task(self._events.beat(), name="taskq-heartbeat"))
        if self._control is not None:
            self._tasks.append(asyncio.create_task(self._control.run(), name="taskq-control"))

    async def close(self) -> None:
        """Say goodbye."""
        for task in self._tasks:
            task.cancel()
        for end in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(end, Exception):
                logger.error("remote control or heartbeats ended early", exc_info=end)
        await self._events.close()
        if self._control is not None:
            await self._control.close()
