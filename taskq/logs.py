"""What every log record of a task tells: which task, which run, where."""

import logging
from typing import Any

from taskq.wire.request import current

#: Attributes that `TaskFields` gives to records.
FIELDS = ("task_id", "task_name", "root_id", "queue", "attempt", "worker")

#: The logger above those of all tasks, by Celery's name for it.
TASK_LOGGER = "celery.task"


def get_task_logger(name: str) -> logging.Logger:
    """The logger of a module of tasks; its name is usually `__name__`.

    It has the logger of all tasks (`celery.task`, Celery's name) above it, where all of them are made louder or quieter.
    """
    logger = logging.getLogger(name)
    if name != TASK_LOGGER and logger.parent is logging.getLogger():
        logger.parent = logging.getLogger(TASK_LOGGER)
    return logger


class TaskFields(logging.Filter):
    """Adds `FIELDS` to records: those of the run that logs, None outside of one. Fields already there stay."""

    def __init__(self, worker: str | None = None) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        known = record.__dict__
        for name, value in self._of_run().items():
            known.setdefault(name, value)
        return True

    def _of_run(self) -> dict[str, Any]:
        request = current.get()
        if request is None:
            return {**dict.fromkeys(FIELDS), "worker": self._worker}
        return {
            "task_id": request.id,
            "task_name": request.task,
            "root_id": request.root_id,
            "queue": request.delivery_info.get("routing_key"),
            "attempt": request.retries + 1,
            "worker": request.hostname or self._worker,
        }
