"""What is to become of a delivery: judged at once, without I/O, for every input there is."""

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from taskq import states
from taskq.app import TaskQ
from taskq.errors import DecodeError, NotRegistered, TaskqError, WorkerLostError
from taskq.failures import encode_exception
from taskq.message import Delivery
from taskq.protocol import decode, task_id_of
from taskq.store import TaskResult
from taskq.worker.job import Job
from taskq.worker.outcome import Outcome, Settle

logger = logging.getLogger("taskq.worker")


class Admission:
    """Judges deliveries for one app."""

    def __init__(self, app: TaskQ, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now
        self._accept: Collection[str] = frozenset(app.conf.accept_content)

    def judge(self, delivery: Delivery) -> Job | Outcome:
        """A job that can be run, or the outcome of a message that never can (kept as a dead letter)."""
        conf = self._app.conf
        message = delivery.message
        if delivery.deaths >= conf.max_deaths:
            reason = f"{delivery.deaths} workers died while they held it"
            return self._refused(delivery, WorkerLostError(reason), reason)
        if len(message.body) > conf.max_message_bytes:
            reason = f"its body has {len(message.body)} bytes, max_message_bytes is {conf.max_message_bytes}"
            return self._refused(delivery, DecodeError(reason), reason)
        try:
            request = decode(message, self._accept, max_inflated=conf.max_inflated_bytes)
        except DecodeError as error:
            return self._refused(delivery, error, f"{type(error).__name__}: {error}")
        task = self._app.find_task(request.task)
        if task is None:
            return self._refused(delivery, NotRegistered(request.task), f"no task {request.task!r} here")
        job = Job(delivery, request, task)
        if request.eta is not None:
            due = request.eta.timestamp()
            if due > self._now():
                job.due = due
        return job

    def _refused(self, delivery: Delivery, error: TaskqError, reason: str) -> Outcome:
        """The caller learns of it as a FAILURE, where Celery leaves it waiting (celery-protocol.md 1.11)."""
        message = delivery.message
        task_id = task_id_of(message)
        logger.error("dead  %s  %s  see: taskq dead", task_id or "(a message without id)", reason)
        results = []
        if task_id is not None:
            failure = TaskResult(task_id, states.FAILURE, encode_exception(error), reply_to=message.reply_to)
            failure.date_done = datetime.now(UTC).isoformat()
            results = [failure]
        return Outcome(delivery, results, settle=Settle.REJECT, reason=reason)
