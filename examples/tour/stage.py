"""What the tour stands on: a worker process whose lines are shown as they come, and checks of what came out."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
SECONDS_TO_START = 20.0
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
BEGAN = time.monotonic()


class Surprise(Exception):
    """An outcome was not the documented one."""


def expect(what: str, found: object, documented: object) -> None:
    if found != documented:
        raise Surprise(f"{what}: {found!r}, documented is {documented!r}")


def paint(code: int, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def title(text: str) -> None:
    print(f"\n{paint(1, text)}", flush=True)


def code(text: str) -> None:
    print(paint(36, f"  >>> {text}"), flush=True)


def show(text: str) -> None:
    print(f"  {time.monotonic() - BEGAN:5.2f}s  {text}", flush=True)


class Worker:
    """A running `taskq worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: list[str] = []
        self._ended = False
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            print(paint(2, f"          | {line}"), flush=True)
            async with self._news:
                self._lines.append(line)
                self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def says(self, text: str, within: float = 5.0) -> None:
        """Wait until the worker has printed a line that contains `text`."""
        await self._wait(lambda: any(text in line for line in self._lines), f"say {text!r}", within)

    async def ended(self, task_id: str, within: float = 5.0) -> None:
        """Wait until the worker has told how the task ended, so that its lines stand under the step they belong to."""
        await self._wait(
            lambda: any(task_id in line and "received" not in line for line in self._lines),
            f"tell the end of task {task_id}",
            within,
        )

    async def _wait(self, said: Callable[[], bool], what: str, within: float) -> None:
        async with self._news:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(lambda: said() or self._ended), within)
        if not said():
            raise Surprise(f"the worker did not {what}" + " before it left" * self._ended)

    async def stop(self) -> int:
        """Ask it to finish (SIGTERM) and give its exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        await self._reader
        return await self._process.wait()


@asynccontextmanager
async def running_worker() -> AsyncIterator[Worker]:
    arguments = ["worker", "-A", "tasks", "-Q", "celery,priority.high", "-l", "info"]
    print(paint(36, f"  $ taskq {' '.join(arguments)}"), flush=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "taskq", *arguments),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    worker = Worker(process)
    try:
        await worker.says("ready.", SECONDS_TO_START)
        yield worker
    finally:
        title("SIGTERM: the worker finishes what it runs and leaves")
        exit_code = await worker.stop()
    expect("the worker's exit code", exit_code, 0)
