"""A thread beside the event loop: it keeps the leases while the loop is blocked, and tells what blocks it."""

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from taskq.errors import OperationalError
from taskq.seams.broker import Broker
from taskq.worker.intake.leases import Leases
from taskq.worker.run.job import Job
from taskq.worker.run.limits import Limits

logger = logging.getLogger("taskq.worker")

#: Exit code of a worker that gave itself up (EX_TEMPFAIL): its supervisor starts another.
GAVE_UP = 75
#: A loop that is blocked past its task's hard limit has so many seconds more, before the process ends.
_MERCY = 5.0


class Watchdog:
    """Looks after one event loop, from a thread with a loop and a broker connection of its own.

    Args:
        leases: what is held; None where the broker needs no renewal.
        connect: makes that connection's broker, not yet opened.
        job_of: the job that an asyncio task runs, if it does.
        warning: seconds after which a blocked loop is worth a line in the log, with its stack.
    """

    def __init__(
        self,
        leases: Leases | None,
        connect: Callable[[], Broker],
        job_of: Callable[["asyncio.Task[object] | None"], Job | None],
        *,
        warning: float,
    ) -> None:
        self._leases = leases
        self._connect = connect
        self._job_of = job_of
        self._warning = warning
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._asked: float | None = None
        #: How long the event loop took to answer the last time, in seconds.
        self.lag = 0.0
        self._told = False
        self._pause = min(1.0, warning / 2, leases.lease / 3 if leases is not None else 1.0)
        self._renewed = time.monotonic()
        self._failing_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskq-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    async def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 5.0)

    @property
    def failing(self) -> float:
        """Seconds since its errors began, 0 while there are none. From any thread."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        """An error that nobody thought of is told, and all begins anew."""
        while not self._stop.is_set():
            try:
                asyncio.run(self._watch())
            except Exception:
                logger.exception("the watchdog failed and starts again")
                self._failing_since = self._failing_since or time.monotonic()
                self._stop.wait(self._pause)

    async def _watch(self) -> None:
        broker = self._connect() if self._leases is not None else None
        opened = False
        try:
            while not await asyncio.to_thread(self._stop.wait, self._pause):
                self._look()
                if broker is not None and self._leases is not None and self._is_time:
                    try:
                        opened = opened or await _opened(broker)
                        await self._renew(broker, self._leases)
                    except OperationalError as error:
                        logger.warning("could not renew the leases: %s", error)
                self._failing_since = None
        finally:
            if broker is not None and opened:
                await broker.close()

    @property
    def _is_time(self) -> bool:
        return self._leases is not None and time.monotonic() - self._renewed >= self._leases.lease / 3

    async def _renew(self, broker: Broker, leases: Leases) -> None:
        asked = leases.clock()
        leases.renewed(asked, await broker.renew(leases.held()))
        self._renewed = time.monotonic()

    # --- the loop -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Has the loop answered the last question? Ask the next one."""
        blocked = self.blocked
        if blocked > self._warning:
            self._tell(blocked)
        if self._asked is None:
            self._asked = time.monotonic()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        """On the loop: it runs."""
        if self._told:
            logger.warning("the event loop runs again")
        if self._asked is not None:
            self.lag, self._asked = time.monotonic() - self._asked, None
        self._told = False

    @property
    def blocked(self) -> float:
        """Seconds that the event loop has owed an answer. From any thread."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def _tell(self, blocked: float) -> None:
        job = self._job_of(asyncio.current_task(self._loop))
        name = f"{job.task.name}[{job.request.id}]" if job is not None else "a callback"
        if not self._told:
            self._told = True
            frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to another thread's stack
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            logger.warning("%s blocks the event loop for %.0f s now:\n%s", name, blocked, stack)
        limits = Limits.of(job.request, job.task, job.task.app.conf) if job is not None else None
        if limits is not None and limits.hard is not None and blocked > limits.hard + _MERCY:
            logger.critical("%s blocks the event loop past its time limit: this process ends", name)
            logging.shutdown()
            os._exit(GAVE_UP)


async def _opened(broker: Broker) -> bool:
    await broker.open()
    return True
