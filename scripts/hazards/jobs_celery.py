"""The tasks of the trials, for a Celery worker set up as safely as it can be."""

import os
import threading
import time
from collections.abc import Callable

from celery import Celery

LEASE = float(os.environ.get("JOBS_LEASE", "5"))

url = os.environ.get("JOBS_URL", "redis://")
app = Celery("jobs", broker=url, backend=os.environ.get("JOBS_RESULTS", url))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_transport_options={
        "visibility_timeout": LEASE,
        # By default lost messages are looked for every 100 s.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "confirm_publish": True,  # RabbitMQ; off by default
    },
)


def note(event: str, number: object) -> None:
    with open(os.environ["JOBS_LOG"], "a", encoding="ascii") as log:  # noqa: PTH123 - as short as can be
        log.write(f"{event} {number if isinstance(number, int) else -2} {time.time()} {os.getpid()}\n")


def job(number: int, seconds: float = 0.0) -> int:
    note("start", number)
    time.sleep(seconds)
    note("end", number)
    return os.getpid()


task: Callable[..., object] = app.task(name="jobs.job")(job)


def noop() -> None:
    """Nothing."""


def waiting(number: int) -> None:
    note("start", number)
    threading.Event().wait()


def spinning(number: int) -> None:
    note("start", number)
    while True:
        pass


app.task(name="jobs.noop")(noop)
app.task(name="jobs.blocking")(job)
app.task(name="jobs.waiting", time_limit=3)(waiting)
app.task(name="jobs.spinning", time_limit=3)(spinning)
