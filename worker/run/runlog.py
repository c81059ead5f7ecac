"""The worker's line per event of a task; levels as Celery's."""

import logging
from typing import Any

from taskq.errors import Reject, Retry, WorkerLostError
from taskq.wire.message import Delivery
from taskq.wire.repr import saferepr
from taskq.worker.remote.events import TaskEvents
from taskq.worker.run.job import Job

logger = logging.getLogger("taskq.worker")


class RunLog:
    """Writes the lines. Whether INFO is on is asked once, at start: asking per task costs a microsecond."""

    def __init__(self, *, clock: Any) -> None:
        self._clock = clock
        self._info = logger.isEnabledFor(logging.INFO)
        #: Monitors are told, too, while somebody wants that.
        self.events: TaskEvents | None = None

    def received(self, job: Job) -> None:
        if self.events is not None:
            self.events.received(job)
        if self._info:
            self._line(logging.INFO, "received", job, f"queue={job.delivery.queue}{self._arguments(job)}")

    def started(self, job: Job) -> None:
        if self.events is not None:
            self.events.started(job)

    def succeeded(self, job: Job, value: Any) -> None:
        if self.events is not None:
            self.events.succeeded(job, value, self._runtime(job))
        if self._info:
            runtime = self._runtime(job)
            detail = f"in {_shown(runtime)} -> {saferepr(value, 100)}"
            self._line(logging.INFO, "succeeded", job, detail, runtime=round(runtime, 3))

    def retried(self, job: Job, retry: Retry, seconds: float) -> None:
        if self.events is not None:
            self.events.retried(job, retry)
        limit = job.task.max_retries
        turn = f"{job.request.retries + 1}" + ("" if limit is None else f"/{limit}")
        why = "" if retry.exc is None else f"  {saferepr(retry.exc)}"
        self._line(
            logging.INFO, "retry", job, f"in {max(0.0, seconds):.1f}s{why}", shown_event=f"retry {turn}"
        )

    def failed(self, job: Job, error: BaseException) -> None:
        if self.events is not None:
            self.events.failed(job, error)
        expected = isinstance(error, tuple(job.task.throws))
        level = logging.INFO if expected else logging.ERROR
        trace = None if expected else (type(error), error, error.__traceback__)
        runtime = self._runtime(job)
        detail = f"in {_shown(runtime)}  {saferepr(error)}"
        self._line(level, "failed", job, detail, exc_info=trace, runtime=round(runtime, 3))

    def lost(self, job: Job, error: WorkerLostError) -> None:
        runtime = self._runtime(job)
        detail = f"after {_shown(runtime)}  {error}  back to its queue"
        self._line(logging.ERROR, "lost", job, detail, runtime=round(runtime, 3))

    def dead(self, delivery: Delivery, task_id: str | None, reason: str) -> None:
        log_dead(delivery, task_id, reason)

    def rejected(self, job: Job, reject: Reject) -> None:
        if self.events is not None:
            self.events.rejected(job, requeue=reject.requeue)
        where = "back to its queue" if reject.requeue else f"see: taskq dead show {job.request.id}"
        self._line(logging.WARNING, "rejected", job, f"{reject.reason}  {where}")

    def revoked(self, job: Job, why: str) -> None:
        if self.events is not None:
            self.events.revoked(job, expired=why == "expired")
        self._line(logging.INFO, why, job, "")

    def handed_back(self, job: Job) -> None:
        runtime = self._runtime(job)
        self._line(logging.WARNING, "returned", job, f"after {_shown(runtime)}", runtime=round(runtime, 3))

    def _runtime(self, job: Job) -> float:
        return self._clock() - job.started if job.started else 0.0

    def _arguments(self, job: Job) -> str:
        """Arguments may be private: they are shown at DEBUG alone, and as their caller wants them shown."""
        if not logger.isEnabledFor(logging.DEBUG):
            return ""
        request = job.request
        args, kwargs = (
            request.argsrepr or saferepr(request.args),
            request.kwargsrepr or saferepr(request.kwargs),
        )
        return f" args={args} kwargs={kwargs}"

    def _line(
        self,
        level: int,
        event: str,
        job: Job,
        detail: str,
        exc_info: Any = None,
        **more: Any,
    ) -> None:
        request = job.request
        fields = {
            "event": event,
            "detail": detail,
            "shown_name": request.name,
            "task_id": request.id,
            "task_name": request.task,
            "root_id": request.root_id,
            "queue": job.delivery.queue,
            "attempt": request.retries + 1,
            **more,
        }
        logger.log(
            level, "%s %s[%s]  %s", event, request.name, request.id, detail, exc_info=exc_info, extra=fields
        )


def log_dead(delivery: Delivery, task_id: str | None, reason: str) -> None:
    """A message that cannot be run and was put away."""
    name = delivery.message.headers.get("task")
    fields: dict[str, Any] = {
        "event": "dead",
        "detail": f"{reason}  see: taskq dead {'ls' if task_id is None else f'show {task_id}'}",
    }
    fields |= {"task_id": task_id, "task_name": name, "queue": delivery.queue}
    logger.error("dead %s[%s]  %s", name, task_id, reason, extra=fields)


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.2f}s"
