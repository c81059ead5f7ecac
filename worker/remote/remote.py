"""What connects a worker with its operators: remote control and heartbeats, in tasks beside the work."""

import asyncio
import logging

from taskq.errors import OperationalError
from taskq.remote.control import Reply
from taskq.worker.remote.control import RemoteControl
from taskq.worker.remote.inspection import revoked_of
from taskq.worker.remote.panel import Panel

logger = logging.getLogger("taskq.worker")


class Remote:
    """Runs both, and says hello. Whatever happens to them, the work goes on.

    Args:
        obeys: False: heartbeats and events alone.
    """

    def __init__(self, panel: Panel, *, obeys: bool) -> None:
        self._panel = panel
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
            if self._panel.broker.features.celery:
                self._tasks.append(asyncio.create_task(self._greet(), name="taskq-hello"))

    async def _greet(self) -> None:
        """Learn what Celery's workers know to be revoked: they keep it to themselves (wire-format.md 9).

        The work does not wait for that: who answers does so within milliseconds.
        """
        revoker, told = self._panel.revoker, list[str]()

        def learn(reply: Reply) -> None:
            for known in reply.values():
                told.extend(revoked_of(known))
            revoker.known.add(told)

        try:
            await self._panel.app.control.inspect(callback=learn).hello(
                self._panel.hostname, revoker.known.ids
            )
            if told:
                await revoker.revoke(list(dict.fromkeys(told)))
        except OperationalError as error:
            logger.warning("could not ask other workers what is revoked: %s", error)

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
