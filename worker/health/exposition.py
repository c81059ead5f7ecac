"""Metrics in the text format of Prometheus. Needs the extra `taskq-asyncio[metrics]`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from taskq.worker.health.health import Health
from taskq.worker.health.metrics import BOUNDS, Durations


class Exposition(Collector):
    """The metrics of one worker, as of when they are asked for."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, health: Health) -> None:
        self._health = health
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Celery's words where it has them."""
        metrics = self._health.vitals.metrics
        events = CounterMetricFamily(
            "taskq_tasks", "Events of tasks by name and kind.", labels=["task", "state"]
        )
        for (task, event), count in list(metrics.events.items()):
            events.add_metric([task, event], count)
        dead = CounterMetricFamily("taskq_dead_letters", "Messages that were put away.", labels=["queue"])
        for queue, count in list(metrics.dead.items()):
            dead.add_metric([queue], count)
        yield events
        yield dead
        yield _histogram("taskq_task_runtime_seconds", "How long runs took.", metrics.runtimes)
        yield _histogram("taskq_task_wait_seconds", "From the receipt to the begin of a run.", metrics.waits)
        yield from self._gauges()
        yield from self._counters()

    def _gauges(self) -> Iterator[Metric]:
        health = self._health
        vitals = health.vitals
        running = GaugeMetricFamily("taskq_running", "Runs under way by where they are.", labels=["place"])
        for place, count in Counter(job.place.value for job in list(vitals.runner.running)).items():
            running.add_metric([place], count)
        waiting = GaugeMetricFamily(
            "taskq_queue_messages", "Messages that wait in a queue.", labels=["queue"]
        )
        for queue, count in list(health.waiting.items()):
            waiting.add_metric([queue], count)
        yield running
        yield waiting
        for name, text, value in (
            ("taskq_live", "1 while the worker is alive and consuming.", not health.why_dead()),
            ("taskq_ready", "1 while it takes tasks.", not health.why_not_ready()),
            ("taskq_broker_up", "1 while the broker can be reached.", health.connected),
            ("taskq_slots", "How many may run at once.", vitals.runner.concurrency),
            ("taskq_held", "Messages in the worker's hands.", len(vitals.custody)),
            ("taskq_held_bytes", "Bytes of their bodies.", vitals.custody.bytes),
            ("taskq_later", "Of these, those that wait for their eta.", vitals.intake.waiting),
            ("taskq_room", "How many more it would take.", max(0, vitals.intake.room)),
            ("taskq_loop_lag_seconds", "How late the event loop was the last time.", vitals.watchdog.lag),
            ("taskq_loop_silent_seconds", "How long it has owed an answer.", vitals.watchdog.blocked),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))

    def _counters(self) -> Iterator[Metric]:
        leases = self._health.vitals.leases
        if leases is not None:
            yield CounterMetricFamily(
                "taskq_lease_renewals", "Renewals of all leases.", value=leases.renewals
            )
            yield CounterMetricFamily("taskq_leases_lost", "Deliveries lost to others.", value=leases.losses)
        reconnects = max(0, self._health.reconnects)
        yield CounterMetricFamily(
            "taskq_broker_reconnects", "How often the broker came back.", value=reconnects
        )


def _histogram(name: str, text: str, by_task: Mapping[str, Durations]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["task"])
    for task, durations in list(by_task.items()):
        sums = accumulate(list(durations.counts))
        buckets = [(str(bound), float(count)) for bound, count in zip((*BOUNDS, "+Inf"), sums, strict=True)]
        family.add_metric([task], buckets, durations.total)
    return family
