"""What a worker counts for its operators; only where somebody may ask for it."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from taskq.wire.message import Delivery
from taskq.worker.run.job import Job
from taskq.worker.run.runlog import RunLog

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


class CountingLog(RunLog):
    """The log of runs, which sees every event of a task, counting them."""

    def __init__(self, metrics: Metrics, *, clock: Any) -> None:
        super().__init__(clock=clock)
        self._metrics = metrics

    def received(self, job: Job) -> None:
        job.received = self._clock()
        self._count("received", job)
        super().received(job)

    def succeeded(self, job: Job, value: Any) -> None:
        self._count("succeeded", job)
        super().succeeded(job, value)

    def dead(self, delivery: Delivery, task_id: str | None, reason: str) -> None:
        self._metrics.dead[delivery.queue] += 1
        super().dead(delivery, task_id, reason)

    def _line(self, level: int, event: str, job: Job, detail: str, exc_info: Any = None, **more: Any) -> None:
        if event not in {"received", "succeeded"}:  # those are counted also where nobody logs them
            self._count(event, job)
        super()._line(level, event, job, detail, exc_info, **more)

    def _count(self, event: str, job: Job) -> None:
        metrics, name = self._metrics, job.task.name
        metrics.events[name, event] += 1
        if event != "received" and job.started:
            metrics.runtimes[name].add(self._clock() - job.started)
            metrics.waits[name].add(max(0.0, job.started - job.received))
