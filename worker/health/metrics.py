"""What a worker counts for its operators; only where somebody may ask for it."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taskq.errors import WorkerLostError
from taskq.run.ends import Inadmissible, Revoked
from taskq.worker.run.job import Job
from taskq.worker.run.observers import Observer

#: Upper bounds of the classes of durations, in seconds.
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0)


@dataclass(slots=True)
class Durations:
    """How many durations fell into each class (the last one has no bound), and their sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Metrics:
    """Counted since the start: events by task and kind, runtimes and waits by task, dead letters by queue."""

    events: "defaultdict[tuple[str, str], int]" = field(default_factory=lambda: defaultdict(int))
    runtimes: "defaultdict[str, Durations]" = field(default_factory=lambda: defaultdict(Durations))
    waits: "defaultdict[str, Durations]" = field(default_factory=lambda: defaultdict(Durations))
    dead: "defaultdict[str, int]" = field(default_factory=lambda: defaultdict(int))


class CountingObserver(Observer):
    """Counts every event of a task, with how long it waited and ran. `clock` is the worker's."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock

    def received(self, job: Job) -> None:
        job.received = self._clock()
        self._metrics.events[job.task.name, "received"] += 1

    def succeeded(self, job: Job, *_: Any) -> None:
        self._count("succeeded", job)

    def failed(self, job: Job, *_: Any) -> None:
        self._count("failed", job)

    def retried(self, job: Job, *_: Any) -> None:
        self._count("retry", job)

    def revoked(self, job: Job, end: Revoked) -> None:
        self._count(end.why, job)

    def rejected(self, job: Job, *_: Any) -> None:
        self._count("rejected", job)

    def returned(self, job: Job, lost: WorkerLostError | None) -> None:
        self._count("returned" if lost is None else "lost", job)

    def dead(self, message: Inadmissible, *_: Any) -> None:
        self._metrics.dead[message.delivery.queue] += 1

    def _count(self, event: str, job: Job) -> None:
        metrics, name = self._metrics, job.task.name
        metrics.events[name, event] += 1
        if job.started:
            metrics.runtimes[name].add(job.runtime)
            metrics.waits[name].add(max(0.0, job.started - job.received))
