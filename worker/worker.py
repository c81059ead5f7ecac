"""The worker: builds the parts, lets them run, drains and stops them."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from enum import IntEnum
from typing import Any

from taskq import signals
from taskq.app import TaskQ
from taskq.errors import OperationalError
from taskq.worker.effects.completer import Completer
from taskq.worker.effects.entries import Links
from taskq.worker.process.autoscaler import Slots, size_of
from taskq.worker.process.supervisor import available_processors
from taskq.worker.run.job import Job
from taskq.worker.run.runner import Runner
from taskq.worker.wiring import Wiring

logger = logging.getLogger("taskq.worker")


#: How long cancelled tasks may take to clean up, and the broker to take what goes back, in seconds.
PATIENCE = 5.0
#: All of it is over so many seconds after the grace period: platforms kill soon after it.
LAST = 0.5


class Stop(IntEnum):
    """How to stop: each is harder than the one before."""

    WARM = 1  #: take no more; running tasks have the grace period
    COLD = 2  #: end running tasks now and give them back


class Worker:
    """Runs the tasks of an app: `await Worker(app, queues=["celery"]).run()`.

    Args:
        app: whose tasks, settings and connections.
        queues: names of the queues to take from; default the app's own.
        concurrency: how many tasks run at the same time; default `worker_autoscale` or `worker_concurrency`.
        threads: how many of them may be plain functions; default `worker_threads`.
        hostname: the node name, `name@host`.
        grace: seconds that running tasks have when the worker is to stop; default `worker_grace`.
        on_ready: called when it has begun to receive.
        number: of this process among those of one command, from 1: it has a port and a heartbeat file of its own.
    """

    def __init__(
        self,
        app: TaskQ,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        threads: int | None = None,
        hostname: str | None = None,
        grace: float | None = None,
        on_ready: Callable[[], None] | None = None,
        number: int = 1,
    ) -> None:
        conf = app.conf
        self.app = app
        self.queues = list(queues or app.router.queues)
        #: Slots at the start, and between which bounds their number changes (None: it does not).
        self.concurrency, self.bounds = size_of(conf, concurrency)
        self.threads = threads or conf.worker_threads
        self.pool_processes = conf.worker_pool_processes or available_processors()
        self.hostname = hostname or f"celery@{socket.gethostname()}"
        self.grace = conf.worker_grace if grace is None else grace
        self.number = number
        self._on_ready = on_ready
        #: Whether it has begun to receive: what fails before that may be tried again by another `run`.
        self.begun = False
        #: After `run`: whether every outcome was stored and everything else given back at once.
        self.clean = True
        self._stopping = asyncio.Event()
        self._cancelling = asyncio.Event()
        self._parts: Wiring | None = None

    @property
    def running(self) -> set[Job]:
        """The jobs that run now."""
        return self._parts.runner.running if self._parts else set()

    @property
    def held(self) -> int:
        """How many messages are in its hands. From any thread."""
        return len(self._parts.custody) if self._parts else 0

    def stop(self, how: Stop = Stop.WARM) -> None:
        """Stop as told; call it again with more to be harder. From the loop's thread (its signal handlers)."""
        self._stopping.set()
        if how is Stop.COLD:
            self._cancelling.set()

    async def run(self) -> None:
        """Work until `stop` is called, then drain: returns when nothing is held any more.

        Raises:
            OperationalError: the broker could not be reached at start.
            StoreError: the result store could not be reached at start.
            RuntimeError: a part of it ended for a bug; it has drained, as if it had been stopped.
        """
        await signals.worker_init.send(self)
        try:
            connection = self.app.shared_connection()
            broker, store = await connection.open_broker(), await connection.open_store()
            slots = Slots.of(self.concurrency, self.app.conf, broker.features)
            consumer = await broker.consume(self.queues, prefetch=slots.prefetch)
            self._parts = Wiring(self, Links(broker, store, consumer))
            await self._work(self._parts)
        finally:
            await self.app.close()
            await signals.worker_shutdown.send(self)

    async def _work(self, parts: Wiring) -> None:
        await parts.remote.open()
        intake = asyncio.create_task(parts.intake.run(), name="taskq-intake")
        completer = asyncio.create_task(parts.completer.run(), name="taskq-completer")
        stopping = asyncio.create_task(self._stopping.wait(), name="taskq-stop")
        tasks: list[asyncio.Task[Any]] = [intake, stopping, completer]
        parts.watchdog.start()
        parts.remote.start()
        if (scaling := parts.autoscaler.start()) is not None:
            tasks.append(scaling)
        if parts.probes is not None:
            parts.probes.start()
        try:
            await self._say_ready(parts)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            broken = None if stopping.done() else _broken(tasks)
            await self._drain(parts, intake, completer)
        finally:
            parts.runner.cancel()  # only where draining did not come to its end
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await _close(parts)
        if broken is not None:
            raise broken
        if not completer.cancelled() and (error := completer.exception()) is not None:
            raise error

    async def _say_ready(self, parts: Wiring) -> None:
        self.begun = True
        await signals.worker_ready.send(self)
        if self._on_ready is not None:
            self._on_ready()
        if parts.probes is not None:
            parts.probes.health.ready()

    async def _drain(
        self, parts: "Wiring", intake: "asyncio.Task[None]", completer: "asyncio.Task[None]"
    ) -> None:
        """Take no more, give back what has not begun, let the rest finish within the grace period."""
        await signals.worker_shutting_down.send(self)
        if parts.probes is not None:
            parts.probes.health.stopping()
        intake.cancel()
        parts.autoscaler.stop()
        await asyncio.wait([intake])
        parts.intake.close()
        end = asyncio.get_running_loop().time() + self.grace
        if parts.runner.close():
            await self._finish(parts.runner, end)
        if not await self._flushed(parts.completer, end, completer):
            self.clean = False
            logger.error("outcomes not stored or settled: %d, their tasks are run again", self.held)
        try:
            async with asyncio.timeout(_patience(end)):
                await parts.consumer.close()
        except (OperationalError, TimeoutError) as error:
            self.clean = False
            logger.warning(
                "could not give deliveries back; their leases will run out: %s", str(error) or "no answer"
            )

    async def _flushed(self, completer: Completer, end: float, running: "asyncio.Task[None]") -> bool:
        """Carry out what runs came to. Told to hurry, or with the grace period over, it still has some patience."""
        rest = end - asyncio.get_running_loop().time()
        return await self._in_time(completer.drain(), rest, running) or await self._in_time(
            completer.drain(), _patience(end), running, cold=False
        )

    async def _finish(self, runner: Runner, end: float) -> None:
        """Wait for what runs; cancel it when the grace period is over or `stop(COLD)` says so."""
        rest = end - asyncio.get_running_loop().time()
        if await self._in_time(runner.wait(), rest):
            return
        runner.cancel()
        if not await self._in_time(runner.wait(), _patience(end), cold=False):
            runner.give_up()

    async def _in_time(
        self,
        work: Coroutine[Any, Any, None],
        seconds: float,
        *instead: "asyncio.Task[Any]",
        cold: bool = True,
    ) -> bool:
        """Whether it is done before the time is over, `stop(COLD)` is called or something else ends instead."""
        doing = asyncio.create_task(work)
        told = asyncio.create_task(self._cancelling.wait())
        watched = [doing, *instead, *([told] if cold else [])]
        await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (doing, told):
            task.cancel()
        return doing.done()


def _patience(end: float) -> float:
    """How long to wait for others: less when the grace period is over."""
    return min(PATIENCE, max(end - asyncio.get_running_loop().time(), 0.0) + LAST)


async def _close(parts: Wiring) -> None:
    parts.autoscaler.stop()
    await parts.remote.close()
    parts.threads.close()
    await parts.processes.close()
    await parts.watchdog.stop()
    if parts.probes is not None:
        await parts.probes.stop()


def _broken(tasks: Sequence["asyncio.Task[Any]"]) -> RuntimeError:
    """What to end with when a part ends that was not told to: a worker that goes on without it would be deaf or mute."""
    ended = next(task for task in tasks if task.done())
    error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
    broken = RuntimeError(f"a part of the worker ended: {ended.get_name()}")
    broken.__cause__ = error
    logger.critical("%s: this worker stops", broken, exc_info=error)
    return broken
