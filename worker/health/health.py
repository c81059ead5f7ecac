"""Whether a worker is alive and does its work, judged from a thread of its own.

Alive means consuming, not merely running: the event loop answers, leases are renewed, and messages that wait are
received while there is room for them. A broker that is away makes a worker not ready; it does not make it dead, since
another start would not mend that.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskq.errors import ConnectionLost, OperationalError
from taskq.seams.broker import Broker
from taskq.worker.health.metrics import Metrics
from taskq.worker.health.notify import Notifier
from taskq.worker.health.watchdog import Watchdog
from taskq.worker.intake.custody import Custody
from taskq.worker.intake.intake import Intake
from taskq.worker.intake.leases import Leases
from taskq.worker.run.runner import Runner

logger = logging.getLogger("taskq.worker")

#: Seconds between two judgements, and between two looks at the broker.
_PAUSE, _PROBE = 1.0, 5.0
#: A look at the broker that takes longer has failed, in seconds.
_TIMEOUT = 5.0


@dataclass(slots=True)
class Vitals:
    """What a worker is judged by. All of it may be read from any thread."""

    node: str
    queues: Callable[[], Sequence[str]]
    intake: Intake
    runner: Runner
    custody: Custody
    watchdog: Watchdog
    leases: Leases | None
    metrics: Metrics
    clock: Callable[[], float]
    started: float = field(default_factory=time.monotonic)


class Health:
    """Judges a worker every second, and tells systemd and the heartbeat file.

    Args:
        connect: makes a broker for our own connection, not yet opened.
        patience: seconds after which a worker that does nothing of what it should counts as dead.
        heartbeat: the file to touch while it is alive.
        watched: whether waiting messages of a queue are ours to take: not with a single active consumer.
    """

    def __init__(
        self,
        vitals: Vitals,
        connect: Callable[[], Broker],
        notifier: Notifier,
        *,
        patience: float,
        heartbeat: Path | None,
        watched: Callable[[str], bool],
    ) -> None:
        self.vitals = vitals
        self.taking = False
        self.connected = False
        self.reconnects = -1
        #: Messages that could be received, by queue, as of the last look.
        self.waiting: dict[str, int] = {}
        self._connect = connect
        self._notifier = notifier
        self._patience = patience
        self._heartbeat = heartbeat
        self._watched = watched
        self._unattended: float | None = None
        self._told_dead = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_judging, name="taskq-health", daemon=True)

    def start(self) -> None:
        """Begin to judge."""
        self._thread.start()

    def ready(self) -> None:
        """The worker takes tasks."""
        self.taking = True
        self._notifier.tell("READY=1")

    def stopping(self) -> None:
        """It takes no more."""
        self.taking = False
        self._notifier.tell("STOPPING=1")

    async def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, _TIMEOUT)
        if self._heartbeat is not None:
            self._heartbeat.unlink(missing_ok=True)

    # --- judging --------------------------------------------------------------------------------------------

    def why_dead(self) -> list[str]:
        """What is wrong with it so that only another start would help; empty while it is alive."""
        vitals, patience = self.vitals, self._patience
        problems = []
        if (blocked := vitals.watchdog.blocked) > patience:
            problems.append(f"the event loop has been blocked for {blocked:.0f} s")
        if (failing := vitals.watchdog.failing) > patience:
            problems.append(f"the watchdog has failed for {failing:.0f} s")
        leases = vitals.leases
        if (
            leases is not None
            and self.connected
            and len(vitals.custody)
            and leases.age > max(patience, leases.lease)
        ):
            problems.append(f"leases were not renewed for {leases.age:.0f} s")
        if self._unattended is not None and (idle := time.monotonic() - self._unattended) > patience:
            problems.append(f"waiting messages were not received for {idle:.0f} s")
        return problems

    def why_not_ready(self) -> list[str]:
        """Why it takes no tasks now; empty while it does."""
        problems = self.why_dead()
        if not self.taking:
            problems.append("it does not take tasks: it starts or stops")
        if not self.connected:
            problems.append("the broker cannot be reached")
        return problems

    def status(self) -> dict[str, Any]:
        """All of it as JSON data; no arguments of tasks."""
        vitals = self.vitals
        now = vitals.clock()
        return {
            "node": vitals.node,
            "uptime": round(time.monotonic() - vitals.started, 1),
            "live": not self.why_dead(),
            "ready": not self.why_not_ready(),
            "problems": self.why_not_ready(),
            "queues": list(vitals.queues()),
            "waiting": dict(self.waiting),
            "running": [
                {"id": job.request.id, "task": job.request.name, "seconds": round(now - job.started, 1)}
                for job in sorted(vitals.runner.running.copy(), key=lambda job: job.started)
            ],
            "slots": vitals.runner.concurrency,
            "held": len(vitals.custody),
            "held_bytes": vitals.custody.bytes,
            "later": vitals.intake.waiting,
            "room": max(0, vitals.intake.room),
            "loop_lag": round(vitals.watchdog.lag, 6),
        }

    # --- the thread -----------------------------------------------------------------------------------------

    def _keep_judging(self) -> None:
        """An error that nobody thought of is told, and all begins anew; meanwhile nobody is told that it is alive."""
        while not self._stop.is_set():
            try:
                asyncio.run(self._run())
            except Exception:
                logger.exception("judging the worker's health failed and starts again")
                self.connected = False
                self._stop.wait(self._pause)

    async def _run(self) -> None:
        broker: Broker | None = None
        probed = 0.0
        try:
            while True:
                if time.monotonic() - probed >= _PROBE:
                    probed = time.monotonic()
                    broker = await self._probe(broker)
                self._tell()
                if await asyncio.to_thread(self._stop.wait, self._pause):
                    return
        finally:
            if broker is not None:
                with suppress(OperationalError, TimeoutError):
                    await broker.close()

    @property
    def _pause(self) -> float:
        return min(_PAUSE, (self._notifier.watchdog or 2 * _PAUSE) / 2)

    async def _probe(self, broker: Broker | None) -> Broker | None:
        """Look what waits; the broker to ask next time, None if a new connection is needed."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                if broker is None:
                    broker = self._connect()
                    await broker.open()
                self.waiting = {queue: await broker.ready(queue) for queue in self.vitals.queues()}
        except (OperationalError, TimeoutError) as error:
            if self.connected:
                lost = ConnectionLost(str(error) or f"no answer within {_TIMEOUT:g} s")
                logger.warning("the broker does not answer: %s", lost)
            self.connected, self._unattended = False, None
            if broker is not None:
                with suppress(OperationalError, TimeoutError):
                    await broker.close()
            return None
        if not self.connected:
            self.connected = True
            self.reconnects += 1
        self._attend()
        return broker

    def _attend(self) -> None:
        """Since when have messages waited, with room for them, and none was received?"""
        waits = any(count for queue, count in self.waiting.items() if self._watched(queue))
        if not (waits and self.taking and self.vitals.intake.room > 0):
            self._unattended = None
        elif self._unattended is None or self.vitals.intake.received > self._unattended:
            self._unattended = time.monotonic()

    def _tell(self) -> None:
        problems = self.why_dead()
        if problems and not self._told_dead:
            logger.error("this worker is not alive: %s", "; ".join(problems))
        self._told_dead = bool(problems)
        if problems:
            return
        if self._notifier.watchdog is not None:
            self._notifier.tell("WATCHDOG=1")
        if self._heartbeat is not None:
            with suppress(OSError):
                self._heartbeat.touch()
