"""The worker's line per event of a task, as ux.md 5 shows them; levels as Celery's."""

import logging
import os
from typing import Any

from taskq.errors import Reject, Retry
from taskq.saferepr import saferepr
from taskq.worker.job import Job

logger = logging.getLogger("taskq.worker")


class RunLog:
    """Writes the lines. Whether INFO is on is asked once, at start: asking per task costs a microsecond."""

    def __init__(self, *, clock: Any) -> None:
        self.pid = os.getpid()
        self._clock = clock
        self._info = logger.isEnabledFor(logging.INFO)

    def received(self, job: Job) -> None:
        if self._info:
            self._line(logging.INFO, "received", job, f"queue={job.delivery.queue}")

    def succeeded(self, job: Job, value: Any) -> None:
        if self._info:
            self._line(logging.INFO, "succeeded", job, f"in {self._runtime(job)} -> {saferepr(value, 100)}")

    def retried(self, job: Job, retry: Retry, seconds: float) -> None:
        limit = job.task.max_retries
        turn = f"{job.request.retries + 1}" + ("" if limit is None else f"/{limit}")
        why = "" if retry.exc is None else f"  {retry.exc!r}"
        self._line(logging.INFO, f"retry {turn}", job, f"in {max(0.0, seconds):.1f}s{why}")

    def failed(self, job: Job, error: BaseException) -> None:
        expected = isinstance(error, tuple(job.task.throws))
        level = logging.INFO if expected else logging.ERROR
        trace = None if expected else (type(error), error, error.__traceback__)
        self._line(level, "failed", job, f"in {self._runtime(job)}  {error!r}", exc_info=trace)

    def rejected(self, job: Job, reject: Reject) -> None:
        where = "back to its queue" if reject.requeue else "see: taskq dead"
        self._line(logging.WARNING, "rejected", job, f"{reject.reason}  {where}")

    def revoked(self, job: Job, why: str) -> None:
        self._line(logging.INFO, why, job, "")

    def handed_back(self, job: Job) -> None:
        self._line(logging.WARNING, "handed back", job, f"after {self._runtime(job)}")

    def _runtime(self, job: Job) -> str:
        seconds = self._clock() - job.started if job.started else 0.0
        return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.2f}s"

    def _line(self, level: int, event: str, job: Job, rest: str, exc_info: Any = None) -> None:
        request = job.request
        logger.log(
            level,
            "%-10s %s[%s]  %s",
            event,
            request.name,
            request.id,
            rest,
            exc_info=exc_info,
            extra={
                "event": event,
                "task_id": request.id,
                "task_name": request.task,
                "root_id": request.root_id,
                "queue": job.delivery.queue,
                "attempt": request.retries + 1,
            },
        )
