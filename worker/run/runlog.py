"""The worker's line per event of a task; levels as Celery's."""

import logging
from typing import Any

from taskq.errors import Reject, Retry, WorkerLostError
from taskq.run.ends import Inadmissible, Revoked
from taskq.wire.repr import saferepr
from taskq.worker.run.job import Job
from taskq.worker.run.observers import Observer

logger = logging.getLogger("taskq.worker")


def run_log() -> "RunLog":
    """The log as verbose as is asked for now: to ask at each task costs a microsecond."""
    return VerboseLog() if logger.isEnabledFor(logging.INFO) else RunLog()


class RunLog(Observer):
    """Writes the lines, but for those of usual runs."""

    def retried(self, job: Job, retry: Retry, seconds: float) -> None:
        limit = job.task.max_retries
        turn = f"{job.request.retries + 1}" + ("" if limit is None else f"/{limit}")
        why = "" if retry.exc is None else f"  {saferepr(retry.exc)}"
        self._line(
            logging.INFO, "retry", job, f"in {max(0.0, seconds):.1f}s{why}", shown_event=f"retry {turn}"
        )

    def failed(self, job: Job, error: BaseException) -> None:
        expected = isinstance(error, tuple(job.task.throws))
        level = logging.INFO if expected else logging.ERROR
        trace = None if expected else (type(error), error, error.__traceback__)
        detail = f"in {_shown(job.runtime)}  {saferepr(error)}"
        self._line(level, "failed", job, detail, exc_info=trace, runtime=round(job.runtime, 3))

    def revoked(self, job: Job, end: Revoked) -> None:
        self._line(logging.INFO, end.why, job, "")

    def rejected(self, job: Job, reject: Reject) -> None:
        where = "back to its queue" if reject.requeue else f"see: taskq dead show {job.request.id}"
        self._line(logging.WARNING, "rejected", job, f"{reject.reason}  {where}")

    def returned(self, job: Job, lost: WorkerLostError | None) -> None:
        detail, runtime = f"after {_shown(job.runtime)}", round(job.runtime, 3)
        if lost is None:
            self._line(logging.WARNING, "returned", job, detail, runtime=runtime)
        else:
            self._line(logging.ERROR, "lost", job, f"{detail}  {lost}  back to its queue", runtime=runtime)

    def dead(self, message: Inadmissible, task_id: str | None) -> None:
        name = message.delivery.message.headers.get("task")
        fields: dict[str, Any] = {
            "event": "dead",
            "detail": f"{message.reason}  see: taskq dead {'ls' if task_id is None else f'show {task_id}'}",
        }
        fields |= {"task_id": task_id, "task_name": name, "queue": message.delivery.queue}
        logger.error("dead %s[%s]  %s", name, task_id, message.reason, extra=fields)

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


class VerboseLog(RunLog):
    """With the lines of usual runs, at INFO."""

    def received(self, job: Job) -> None:
        self._line(logging.INFO, "received", job, f"queue={job.delivery.queue}{self._arguments(job)}")

    def succeeded(self, job: Job, value: Any) -> None:
        detail = f"in {_shown(job.runtime)} -> {saferepr(value, 100)}"
        self._line(logging.INFO, "succeeded", job, detail, runtime=round(job.runtime, 3))


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.2f}s"
