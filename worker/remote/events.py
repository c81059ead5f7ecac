"""What this worker tells monitors: of itself every two seconds, of its tasks when asked to (wire-format.md 7)."""

import asyncio
import logging
import os
import platform
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from taskq.errors import OperationalError, Reject, Retry
from taskq.remote.events import Event, EventWriter
from taskq.run.ends import EXPIRED, TERMINATED, Revoked
from taskq.seams.bus import Bus
from taskq.version import VERSION
from taskq.wire.repr import saferepr
from taskq.worker.run.job import Job
from taskq.worker.run.observers import Observer

logger = logging.getLogger("taskq.worker")

#: Seconds between two heartbeats; monitors believe a worker dead after twice that.
HEARTBEAT = 2.0
#: Events of one message, and the most that wait to be sent: a slow broker must not fill our memory.
_BATCH, _MOST_WAITING = 200, 20_000
#: Seconds that what is left may take when the worker stops.
_PATIENCE = 2.0
#: A result is shown in so many characters (10.5).
_RESULT = 1024


class EventSender:
    """Sends events in batches that form by themselves: what comes while one is on its way goes with the next.

    Args:
        facts: what heartbeats tell: `active`, `processed`.
    """

    def __init__(self, bus: Bus, writer: EventWriter, facts: Callable[[], Mapping[str, Any]]) -> None:
        self._bus = bus
        self._writer = writer
        self._facts = facts
        self._pile: list[Event] = []
        self._sending: asyncio.Task[None] | None = None
        self._failed = False

    def put(self, kind: str, fields: Mapping[str, Any]) -> None:
        """An event of a task, to be sent with others."""
        if len(self._pile) < _MOST_WAITING:
            self._pile.append(self._writer.event(kind, fields))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_pile())

    async def _send_pile(self) -> None:
        try:
            while self._pile:
                batch, self._pile = self._pile[:_BATCH], self._pile[_BATCH:]
                await self._announce(lambda batch=batch: self._writer.batch(batch))  # type: ignore[misc]  # bound now
        finally:
            self._sending = None

    async def tell(self, kind: str) -> None:
        """An event of the worker itself: `worker-online`, `worker-heartbeat`, `worker-offline`."""
        software = {"sw_ident": "taskq", "sw_ver": VERSION, "sw_sys": platform.system()}
        fields = {"freq": HEARTBEAT, **self._facts(), "loadavg": _load(), **software}
        await self._announce(lambda: self._writer.message(self._writer.event(kind, fields)))

    async def _announce(self, message: Callable[[], Any]) -> None:
        """Events may be lost, and must not disturb: that they are is told once."""
        try:
            await self._bus.announce(self._writer.exchange, [message()])
            self._failed = False
        except OperationalError as error:
            logger.log(logging.DEBUG if self._failed else logging.WARNING, "events are lost: %s", error)
            self._failed = True

    async def beat(self) -> None:
        """Tell that we are here, until cancelled."""
        await self.tell("worker-online")
        while True:
            await asyncio.sleep(HEARTBEAT)
            await self.tell("worker-heartbeat")

    async def close(self) -> None:
        """Send what is left, and that we go."""
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._sending is not None:
                    await self._sending
                await self.tell("worker-offline")
        except TimeoutError:
            logger.warning("the last events are lost: the broker is slow")


class TaskEvents(Observer):
    """The events of tasks, for monitors."""

    def __init__(self, sender: EventSender) -> None:
        self._put = sender.put

    def received(self, job: Job) -> None:
        request = job.request
        self._put(
            "task-received",
            {
                "uuid": request.id,
                "name": request.name,
                "args": request.argsrepr or saferepr(request.args),
                "kwargs": request.kwargsrepr or saferepr(request.kwargs),
                "root_id": request.root_id,
                "parent_id": request.parent_id,
                "retries": request.retries,
                "eta": None if request.eta is None else request.eta.isoformat(),
                "expires": None if request.expires is None else request.expires.isoformat(),
            },
        )

    def started(self, job: Job) -> None:
        self._put("task-started", {"uuid": job.request.id})

    def succeeded(self, job: Job, value: Any) -> None:
        fields = {"uuid": job.request.id, "result": saferepr(value, _RESULT), "runtime": job.runtime}
        self._put("task-succeeded", fields)

    def failed(self, job: Job, error: BaseException) -> None:
        self._put("task-failed", {"uuid": job.request.id, **_described(error, error)})

    def retried(self, job: Job, retry: Retry, *_: Any) -> None:
        self._put("task-retried", {"uuid": job.request.id, **_described(retry.exc or retry, retry)})

    def rejected(self, job: Job, reject: Reject) -> None:
        self._put("task-rejected", {"uuid": job.request.id, "requeue": reject.requeue})

    def revoked(self, job: Job, end: Revoked) -> None:
        fields = {"terminated": end.why == TERMINATED, "signum": end.signum, "expired": end.why == EXPIRED}
        self._put("task-revoked", {"uuid": job.request.id, **fields})


def _described(error: BaseException, trace: BaseException) -> dict[str, str]:
    text = "".join(traceback.format_exception(trace))
    return {"exception": saferepr(error, _RESULT), "traceback": text}


def _load() -> list[float]:
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except OSError:  # not to be had here
        return [0.0, 0.0, 0.0]
