"""The Celery side of the interop tests: an app over AMQP with rpc results, run as a worker or as a client."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery

F = TypeVar("F", bound=Callable[..., Any])

app = Celery("interop", broker=os.environ["INTEROP_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=os.environ["INTEROP_QUEUE"],
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_track_started=False,
    broker_connection_retry_on_startup=True,
)


def task(name: str, **options: Any) -> Callable[[F], F]:
    """Celery's decorator, with a type."""
    decorate: Callable[[F], F] = app.task(name=name, **options)
    return decorate


@task("interop.add")
def add(x: Any, y: Any) -> Any:
    return x + y


@task("interop.fail")
def fail(text: str) -> None:
    raise ValueError(text)


@task("interop.where", bind=True)
def where(self: Any) -> dict[str, Any]:
    info = self.request.delivery_info
    return {"pid": os.getpid(), "headers": self.request.headers, "routing_key": info["routing_key"]}


@task("interop.sleep")
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "celery"


@task("interop.progress", bind=True)
def progress(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={"n": 1})
    return "done"


def main() -> None:
    """`call NAME ARGS...`: call it and print its result."""
    name, *args = sys.argv[2:]
    result = app.send_task(name, [int(a) if a.isdigit() else a for a in args])
    try:
        sys.stdout.write(f"result {result.get(timeout=20)}\n")
    except Exception as error:  # noqa: BLE001 - shown to the test
        sys.stdout.write(f"error {type(error).__name__} {error}\n")


if __name__ == "__main__" and sys.argv[1] == "call":
    main()
