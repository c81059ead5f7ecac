"""The tasks of the golden messages, for a Celery and for a taskq app alike: each run is a line in a log."""

import json
import os
import time
from typing import Any

from celery import Celery
from kombu.entity import Exchange
from kombu.entity import Queue as KombuQueue

from taskq import TaskQ
from taskq.seams.broker import Queue

SETTINGS = {
    "accept_content": ["json", "pickle", "yaml", "msgpack"],
    "worker_prefetch_multiplier": 4,
    "task_acks_late": True,
}
QUEUES = ("celery", "other", "sink", "q1", "q2")
QUORUM = {"x-queue-type": "quorum"}


def celery_app(broker: str, backend: str) -> Celery:
    app = Celery("golden", broker=broker, backend=backend, set_as_current=False)
    named = [KombuQueue(name, Exchange(name), name) for name in QUEUES[:3]]
    direct = KombuQueue("q1", Exchange("ex1", type="direct"), "rk1")
    topic = KombuQueue("q2", Exchange("ex2", type="topic"), "a.#")
    queues = [*named, direct, topic]
    if "GOLDEN_QUORUM" in os.environ:
        queues = [KombuQueue("later", Exchange("later", type="topic"), "later", queue_arguments=QUORUM)]
    app.conf.update(SETTINGS, task_queues=queues, broker_connection_retry_on_startup=True)
    register(app, shared=False)
    return app


def taskq_app(broker: str, backend: str) -> TaskQ:
    app = TaskQ("golden")
    named = [Queue(name, name, "direct", name) for name in QUEUES[:3]]
    queues = [*named, Queue("q1", "ex1", "direct", "rk1"), Queue("q2", "ex2", "topic", "a.#")]
    if "GOLDEN_QUORUM" in os.environ:
        queues = [Queue("later", "later", "topic", "later", QUORUM)]
    app.conf.update(SETTINGS, broker_url=broker, result_backend=backend, task_queues=queues)
    register(app)
    return app


def register(app: Any, **options: Any) -> None:
    def task(function: Any) -> None:
        app.task(name=f"golden.{function.__name__}", **options)(function)

    @task
    def add(x: Any, y: Any = 0, z: Any = 0) -> Any:
        return logged("add", x + y + z)

    @task
    def xsum(numbers: Any, extra: Any = 0) -> Any:
        return logged("xsum", sum(numbers) + extra)

    @task
    def echo(*args: Any, **kwargs: Any) -> Any:
        return logged("echo", [[str(arg) for arg in args], kwargs])

    @task
    def nap(number: int, seconds: float) -> int:
        time.sleep(seconds)
        return int(logged("nap", number))

    @task
    def fail() -> None:
        raise ValueError("boom")

    @task
    def old_errback(task_id: str) -> None:
        logged("old_errback", 0)


def logged(name: str, result: Any) -> Any:
    with open(os.environ["GOLDEN_LOG"], "a", encoding="utf-8") as log:  # noqa: PTH123 - one write, one line
        log.write(json.dumps([name, result]) + "\n")
    return result


if "GOLDEN_SIDE" in os.environ:
    make: Any = celery_app if os.environ["GOLDEN_SIDE"] == "celery" else taskq_app
    app = make(os.environ["GOLDEN_BROKER"], os.environ["GOLDEN_BACKEND"])
