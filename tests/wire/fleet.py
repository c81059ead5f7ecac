"""A taskq worker and Celery's tools on one broker: the apps of both, and how they are started."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


class Said(NamedTuple):
    """The exit code of a command, and what it wrote."""

    code: int
    output: str
    errors: str


def shared_backend(url: str) -> str:
    """Where Celery's tools find the results of taskq's workers."""
    return "rpc://" if url.startswith("amqp") else url


def env(url: str, folder: Path) -> dict[str, str]:
    return {"TASKQ_BROKER_URL": url, "TASKQ_RESULT_BACKEND": f"sqlite:///{folder}/results.db"}


class CeleryCommand:
    """Celery's own command, `celery -A celeryapp`: each call is a fork of one process that has it imported.

    That takes a second of computing from each of them, and they ask forty times.
    """

    def __init__(self, folder: Path) -> None:
        self._output, self._errors = folder / "output", folder / "errors"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "celery_forks.py")],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, *arguments: str) -> Said:
        """In this folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = {
            "folder": str(folder),
            "arguments": ["-A", "celeryapp", *arguments],
            "output": str(self._output),
            "errors": str(self._errors),
        }
        print(json.dumps(call), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Said(code, self._output.read_text(), self._errors.read_text())

    def ask(self, folder: Path, *arguments: str) -> Any:
        """What our node answers."""
        said = self.run(folder, *arguments, "--json", "--timeout", "10", "-d", NODE)
        assert said.code == 0, said
        replies = json.loads(said.output.strip().splitlines()[-1])
        if isinstance(replies, list):
            [replies] = replies
        return replies[NODE]

    def close(self) -> None:
        """The process ends with its input."""
        self._process.communicate()


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
