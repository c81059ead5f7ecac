"""A taskq worker and Celery's tools on one broker: the apps of both, and how they are started."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.commands import environment, running_taskq
from tests.servers import free_port

TASKS = """
import asyncio
from taskq import TaskQ
app = TaskQ("proj")

@app.task
async def add(x, y):
    return x + y

@app.task
async def sleep(seconds):
    await asyncio.sleep(seconds)
"""

CELERY = """
from celery import Celery
import time
app = Celery("proj", broker={url!r}, backend={backend!r})
@app.task(name="proj.add")
def add(x, y):
    return x + y
@app.task(name="proj.sleep")
def sleep(seconds):
    time.sleep(seconds)
"""

NODE = "taskq@test"


def shared_backend(url: str) -> str:
    """Where Celery's tools find the results of taskq's workers."""
    return "rpc://" if url.startswith("amqp") else url


def env(url: str, folder: Path) -> dict[str, str]:
    return {"TASKQ_BROKER_URL": url, "TASKQ_RESULT_BACKEND": f"sqlite:///{folder}/results.db"}


def celery(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "celery", "-A", "celeryapp", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )


def asked(folder: Path, *arguments: str) -> Any:
    """What our node answers to the real `celery` command."""
    done = celery(folder, *arguments, "--json", "--timeout", "10", "-d", NODE)
    assert done.returncode == 0, done.stdout + done.stderr
    replies = json.loads(done.stdout.strip().splitlines()[-1])
    if isinstance(replies, list):
        [replies] = replies
    return replies[NODE]


@contextlib.contextmanager
def worker(url: str, folder: Path, *arguments: str, backend: str | None = None) -> Iterator[Any]:
    settings = env(url, folder) | ({"TASKQ_RESULT_BACKEND": backend} if backend else {})
    with running_taskq(
        "worker", "-A", "proj", "-n", NODE, *arguments, folder=folder, env=settings
    ) as process:
        process.says("ready.")
        yield process


@contextlib.contextmanager
def running_celery(folder: Path, *command: str, **settings: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A long-running command of Celery's; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celeryapp", *command],
        cwd=folder,
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_flower(folder: Path) -> Iterator[int]:
    """Flower, by its port."""
    port = free_port()
    arguments = (f"--port={port}", "--address=127.0.0.1")
    with running_celery(folder, "flower", *arguments, FLOWER_UNAUTHENTICATED_API="true"):
        yield port
