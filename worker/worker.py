"""The worker: builds the parts, lets them run, drains and stops them."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Any

from taskq import signals
from taskq.app import TaskQ
from taskq.clock import now
from taskq.config.layers import Source
from taskq.config.settings import Settings
from taskq.errors import OperationalError
from taskq.remote.events import EventWriter
from taskq.run.hooks import Hooks
from taskq.run.seals import sealed
from taskq.seams.broker import Broker, Consumer, open_broker
from taskq.seams.publisher import announce_before
from taskq.seams.store import ResultStore
from taskq.worker.effects.completer import Completer
from taskq.worker.effects.effects import Effects
from taskq.worker.health.health import Vitals
from taskq.worker.health.metrics import CountingLog, Metrics
from taskq.worker.health.observer import observer_of
from taskq.worker.health.watchdog import Watchdog
from taskq.worker.intake.admission import Admission
from taskq.worker.intake.custody import Custody
from taskq.worker.intake.intake import Intake
from taskq.worker.intake.leases import Leases
from taskq.worker.intake.revocations import Revocations
from taskq.worker.intake.throttle import Throttle
from taskq.worker.pools.processes import ProcessPool, task_modules
from taskq.worker.pools.threads import ThreadPool
from taskq.worker.process.autoscaler import Autoscaler, Slots, size_of
from taskq.worker.process.supervisor import available_processors
from taskq.worker.remote.events import EventSender
from taskq.worker.remote.panel import Panel
from taskq.worker.remote.remote import Remote
from taskq.worker.remote.revoker import Revoker
from taskq.worker.run.executor import Executor
from taskq.worker.run.job import Job, Place
from taskq.worker.run.runlog import RunLog
from taskq.worker.run.runner import Runner
from taskq.worker.run.ticks import clock_of
from taskq.worker.run.verdict import Verdict

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
        self._parts: _Wiring | None = None

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
        """
        await signals.worker_init.send(self)
        try:
            connection = self.app.shared_connection()
            broker, store = await connection.open_broker(), await connection.open_store()
            slots = Slots.of(self.concurrency, self.app.conf, broker.features)
            consumer = await broker.consume(self.queues, prefetch=slots.prefetch)
            self._parts = _Wiring(self, broker, store, consumer)
            await self._work(self._parts)
        finally:
            await self.app.close()
            await signals.worker_shutdown.send(self)

    async def _work(self, parts: "_Wiring") -> None:
        await parts.remote.open()
        intake = asyncio.create_task(parts.intake.run(), name="taskq-intake")
        completer = asyncio.create_task(parts.completer.run(), name="taskq-completer")
        stopping = asyncio.create_task(self._stopping.wait(), name="taskq-stop")
        tasks = [intake, stopping, completer]
        parts.watchdog.start()
        parts.remote.start()
        parts.autoscaler.start()
        if parts.observer is not None:
            parts.observer.start()
        try:
            self.begun = True
            await signals.worker_ready.send(self)
            if self._on_ready is not None:
                self._on_ready()
            if parts.observer is not None:
                parts.observer.health.ready()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(parts, intake, completer)
        finally:
            parts.runner.cancel()  # only where draining did not come to its end
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            parts.autoscaler.stop()
            await parts.remote.close()
            parts.threads.close()
            await parts.processes.close()
            await parts.watchdog.stop()
            if parts.observer is not None:
                await parts.observer.stop()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _drain(
        self, parts: "_Wiring", intake: "asyncio.Task[None]", completer: "asyncio.Task[None]"
    ) -> None:
        """Take no more, give back what has not begun, let the rest finish within the grace period."""
        await signals.worker_shutting_down.send(self)
        if parts.observer is not None:
            parts.observer.health.stopping()
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


class _Wiring:
    """The parts of a running worker, wired."""

    def __init__(self, worker: Worker, broker: Broker, store: ResultStore, consumer: Consumer) -> None:
        loop, app, conf = asyncio.get_running_loop(), worker.app, worker.app.conf
        self.revocations = Revocations()
        log = self._log(conf)
        self.consumer = consumer
        self.custody = Custody()
        self.leases = Leases(consumer, self.custody, lease=conf.lease_seconds, clock=clock_of(loop))
        self.renewed = self.leases if broker.features.leases else None
        self.completer = Completer(
            broker,
            store,
            consumer,
            custody=self.custody,
            lost=self.leases.lost,
            unsent=lambda message, error: verdict.unsent(message, error),  # noqa: PLW0108 - made below
            sending=lambda messages: announce_before(messages, conf.security_secrets),
            sent=app.published,
        )
        self.threads = ThreadPool(worker.threads, loop)
        self.processes = _process_pool(worker)
        effects = _sealing(self.completer.effects(), app)
        verdict = Verdict(app, effects, Hooks(lambda call: self.threads.submit(call).done), now=now, log=log)
        self.runner = self._runner(worker, effects, verdict)
        self.watchdog = _watchdog(worker, self.renewed, self.runner)
        self.throttle = Throttle(
            self.runner.add, conf.task_default_rate_limit, enabled=not conf.worker_disable_rate_limits
        )
        self.intake = self._intake(worker, broker, verdict)
        self.autoscaler = Autoscaler(self.runner, self.intake, consumer, conf, broker, worker.bounds)
        revoker = Revoker(
            broker,
            self.custody,
            self.intake,
            self.runner,
            verdict,
            known=self.revocations,
            put=self.completer.put,
        )
        self.remote = self._remote(worker, broker, revoker, log)
        self.observer = observer_of(app, lambda: self._vitals(worker), worker.number)

    def _intake(self, worker: Worker, broker: Broker, verdict: Verdict) -> Intake:
        slots = Slots.of(worker.concurrency, worker.app.conf, broker.features)
        return Intake(
            broker,
            self.consumer,
            Admission(worker.app, now),
            verdict,
            self.throttle,
            self.custody,
            leases=self.leases,
            revocations=self.revocations,
            put=self.completer.put,
            capacity=slots.held,
            max_bytes=worker.app.conf.worker_held_bytes,
            horizon=worker.app.conf.eta_horizon,
            later=slots.later,
            now=now,
            log=verdict.log,
        )

    def _log(self, conf: Settings) -> RunLog:
        """Events of tasks are counted only where somebody may ask for them."""
        clock = clock_of(asyncio.get_running_loop())
        self.metrics = Metrics()
        return RunLog(clock=clock) if conf.http_bind is None else CountingLog(self.metrics, clock=clock)

    def _runner(self, worker: Worker, effects: Effects, verdict: Verdict) -> Runner:
        executor = Executor(
            worker.app, self.threads, self.processes, effects, verdict, hostname=worker.hostname, now=now
        )
        return Runner(
            executor,
            self.consumer,
            self.completer.put,
            concurrency=worker.concurrency,
            slots={Place.THREAD: worker.threads, Place.PROCESS: worker.pool_processes},
            leases=self.leases,
        )

    def _vitals(self, worker: Worker) -> Vitals:
        return Vitals(
            worker.hostname,
            lambda: worker.queues,
            self.intake,
            self.runner,
            self.custody,
            self.watchdog,
            self.renewed,
            self.metrics,
            asyncio.get_running_loop().time,
        )

    def _remote(self, worker: Worker, broker: Broker, revoker: Revoker, log: RunLog) -> Remote:
        conf = worker.app.conf
        panel = Panel(
            worker.app,
            worker,
            broker,
            self.consumer,
            self.intake,
            self.throttle,
            self.runner,
            self.autoscaler,
            revoker,
            EventSender(broker.bus, EventWriter(conf, worker.app.clock, worker.hostname), self._facts),
            log,
        )
        panel.tell_events(conf.worker_send_task_events)
        return Remote(panel, obeys=conf.worker_enable_remote_control)

    def _facts(self) -> dict[str, int]:
        """What heartbeats tell."""
        return {"active": len(self.runner.running), "processed": self.runner.started.total()}


def _sealing(effects: Effects, app: TaskQ) -> Effects:
    """Have the parts of chords signed where there are secrets."""
    join = sealed(effects.join, app.store_config().serializer, app.conf.security_secrets)
    return replace(effects, join=join)


def _process_pool(worker: Worker) -> ProcessPool:
    conf = worker.app.conf
    return ProcessPool(
        worker.pool_processes,
        modules=lambda: task_modules(worker.app.tasks.values()),
        settings=conf.set_by(Source.COMMAND_LINE),
        max_tasks=conf.worker_max_tasks_per_child,
        max_memory=conf.worker_max_memory_per_child,
    )


def _watchdog(worker: Worker, leases: Leases | None, runner: Runner) -> Watchdog:
    app = worker.app
    return Watchdog(
        leases,
        lambda: open_broker(app.broker_config()),
        runner.job_of,
        warning=app.conf.worker_blocked_warning,
    )
