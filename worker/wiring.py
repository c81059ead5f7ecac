"""The parts of a running worker, wired."""

import asyncio
from typing import Protocol

from taskq.app import TaskQ
from taskq.clock import now
from taskq.config.layers import Source
from taskq.remote.events import EventWriter
from taskq.run.hooks import Hooks
from taskq.seams.broker import open_broker
from taskq.worker.effects.completer import Completer
from taskq.worker.effects.entries import Links
from taskq.worker.health.health import Vitals
from taskq.worker.health.metrics import CountingObserver, Metrics
from taskq.worker.health.probes import probes_of
from taskq.worker.health.watchdog import Watchdog
from taskq.worker.intake.admission import Admission
from taskq.worker.intake.custody import Custody
from taskq.worker.intake.intake import Holdings, Intake, Room
from taskq.worker.intake.leases import Leases
from taskq.worker.intake.revocations import Revocations
from taskq.worker.intake.throttle import Throttle
from taskq.worker.pools.processes import ProcessPool, task_modules
from taskq.worker.pools.threads import ThreadPool
from taskq.worker.process.autoscaler import Autoscaler, Slots
from taskq.worker.process.scaling import Bounds
from taskq.worker.remote.events import EventSender
from taskq.worker.remote.panel import Panel, Steered, Work
from taskq.worker.remote.remote import Remote
from taskq.worker.remote.revoker import Revoker
from taskq.worker.run.executor import Executor, Pools
from taskq.worker.run.job import Place
from taskq.worker.run.observers import Observers
from taskq.worker.run.runlog import run_log
from taskq.worker.run.runner import Runner
from taskq.worker.run.ticks import clock_of


class WorkerPlan(Steered, Protocol):
    """What a worker is to be like: `taskq.worker.worker.Worker` says so."""

    app: TaskQ
    concurrency: int
    bounds: Bounds | None
    pool_processes: int
    number: int


class Wiring:
    """Builds the parts, those first that others need."""

    def __init__(self, plan: WorkerPlan, links: Links) -> None:
        loop, app, conf = asyncio.get_running_loop(), plan.app, plan.app.conf
        broker = links.broker
        self._plan, self._links = plan, links
        self.consumer = links.consumer
        self.custody = Custody()
        self.metrics = Metrics()
        self.observers = self._observers()
        self.leases = Leases(self.consumer, self.custody, lease=conf.lease_seconds, clock=clock_of(loop))
        self.holdings = Holdings(self.custody, self.leases, Revocations())
        self.renewed = self.leases if broker.features.leases else None
        self.threads = ThreadPool(plan.threads, loop)
        self.processes = self._process_pool()
        hooks = Hooks(lambda call: self.threads.submit(call).done)
        self.completer = Completer(
            app, links, self.custody, self.leases, observers=self.observers, hooks=hooks, now=now
        )
        self.runner = self._runner(hooks)
        self.watchdog = Watchdog(
            self.renewed,
            lambda: open_broker(app.broker_config()),
            self.runner.job_of,
            warning=conf.worker_blocked_warning,
        )
        self.throttle = Throttle(
            self.runner.add, conf.task_default_rate_limit, enabled=not conf.worker_disable_rate_limits
        )
        self.intake = self._intake()
        self.autoscaler = Autoscaler(self.runner, self.intake, self.consumer, conf, broker, plan.bounds)
        self.remote = self._remote()
        self.probes = probes_of(app, self._vitals, plan.number)

    def _observers(self) -> Observers:
        """Events of tasks are counted only where somebody may ask for them."""
        if self._plan.app.conf.http_bind is None:
            return Observers(run_log())
        counting = CountingObserver(self.metrics, clock_of(asyncio.get_running_loop()))
        return Observers(run_log(), counting)

    def _process_pool(self) -> ProcessPool:
        app, conf = self._plan.app, self._plan.app.conf
        return ProcessPool(
            self._plan.pool_processes,
            modules=lambda: task_modules(app.tasks.values()),
            settings=conf.set_by(Source.COMMAND_LINE),
            max_tasks=conf.worker_max_tasks_per_child,
            max_memory=conf.worker_max_memory_per_child,
        )

    def _runner(self, hooks: Hooks) -> Runner:
        plan = self._plan
        pools = Pools(self.threads, self.processes)
        executor = Executor(
            plan.app, pools, self.completer, hooks, self.observers, hostname=plan.hostname, now=now
        )
        slots = {Place.THREAD: plan.threads, Place.PROCESS: plan.pool_processes}
        return Runner(
            executor, self.consumer, self.completer, self.leases, concurrency=plan.concurrency, slots=slots
        )

    def _intake(self) -> Intake:
        app, conf = self._plan.app, self._plan.app.conf
        slots = Slots.of(self._plan.concurrency, conf, self._links.broker.features)
        room = Room(slots.held, conf.worker_held_bytes, conf.eta_horizon, slots.later)
        return Intake(
            self._links,
            Admission(app, now),
            self.completer,
            self.throttle,
            self.holdings,
            observers=self.observers,
            room=room,
            now=now,
        )

    def _remote(self) -> Remote:
        app, plan = self._plan.app, self._plan
        broker = self._links.broker
        writer = EventWriter(app.conf, app.clock, plan.hostname)
        panel = Panel(
            app,
            plan,
            self._links,
            Work(self.intake, self.throttle, self.runner, self.autoscaler),
            Revoker(broker, self.holdings, self.intake, self.runner, self.completer),
            events=EventSender(broker.bus, writer, self._facts),
            observers=self.observers,
        )
        panel.tell_events(app.conf.worker_send_task_events)
        return Remote(panel, obeys=app.conf.worker_enable_remote_control)

    def _vitals(self) -> Vitals:
        return Vitals(
            self._plan.hostname,
            lambda: self._plan.queues,
            self.intake,
            self.runner,
            self.custody,
            self.watchdog,
            self.renewed,
            self.metrics,
            asyncio.get_running_loop().time,
        )

    def _facts(self) -> dict[str, int]:
        """What heartbeats tell."""
        return {"active": len(self.runner.running), "processed": self.runner.started.total()}
