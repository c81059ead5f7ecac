"""The two systems on trial, seen alike: how to send, how to start a worker, what its tasks wrote down."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from celery import Celery

from scripts.hazards.jobs_celery import app as celery_app
from taskq import TaskQ

ROOT = Path(__file__).parent.parent.parent
CONCURRENCY = 20
#: Seconds after which a dead worker's messages go to others: taskq's lease, Celery's visibility timeout.
LEASE = 5.0


class Client(Protocol):
    """Sends `jobs.job`, and reads its result."""

    async def send(self, number: int, seconds: float = 0.0, eta: float | None = None) -> str:
        """Returns the task's id once it is confirmed."""
        ...

    async def result(self, task_id: str) -> Any: ...
    async def close(self) -> None: ...


def results(system: str, url: str, folder: Path) -> str:
    """Where results go: into the broker, but for RabbitMQ, where only their caller could read them."""
    if not url.startswith("amqp"):
        return url
    return f"sqlite:///{folder}/results.db" if system == "taskq" else f"file://{folder}"


class TaskqClient:
    def __init__(self, url: str, folder: Path) -> None:
        self._app = TaskQ("jobs", broker=url, backend=results("taskq", url, folder))

    async def send(self, number: int, seconds: float = 0.0, eta: float | None = None) -> str:
        when = None if eta is None else datetime.fromtimestamp(eta, UTC)
        return (await self._app.send_task("jobs.job", (number, seconds), eta=when)).id

    async def result(self, task_id: str) -> Any:
        return await self._app.AsyncResult(task_id).get(timeout=10)

    async def close(self) -> None:
        await self._app.close()


class CeleryClient:
    def __init__(self, url: str, folder: Path) -> None:
        stored = results("celery", url, folder)
        # Not the app of the workers: it would keep its connections from trial to trial.
        self._app = Celery("jobs", broker=url, backend=stored, set_as_current=False)
        self._app.conf.broker_transport_options = celery_app.conf.broker_transport_options

    async def send(self, number: int, seconds: float = 0.0, eta: float | None = None) -> str:
        when = None if eta is None else datetime.fromtimestamp(eta, UTC)

        def send() -> str:
            task_id: str = self._app.send_task("jobs.job", (number, seconds), eta=when).id
            return task_id

        return await asyncio.to_thread(send)

    async def result(self, task_id: str) -> Any:
        return await asyncio.to_thread(lambda: self._app.AsyncResult(task_id).get(timeout=10))

    async def close(self) -> None:
        self._app.close()


CLIENTS: dict[str, Callable[[str, Path], Client]] = {"taskq": TaskqClient, "celery": CeleryClient}
COMMANDS = {
    "taskq": f"taskq worker -A scripts.hazards.jobs_taskq -c {CONCURRENCY} -l info",
    "celery": f"celery -A scripts.hazards.jobs_celery worker --pool threads -c {CONCURRENCY} -l INFO"
    " --without-gossip --without-mingle",
}


class Event(NamedTuple):
    kind: str
    number: int
    at: float
    pid: int


class Log:
    """What the tasks wrote."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jobs.log"

    def events(self) -> list[Event]:
        if not self.path.exists():
            return []
        parts = (line.split() for line in self.path.read_text().splitlines())
        return [Event(kind, int(number), float(at), int(pid)) for kind, number, at, pid in parts]

    def count(self, kind: str) -> Counter[int]:
        return Counter(event.number for event in self.events() if event.kind == kind)

    def verdict(self, confirmed: Collection[int]) -> str:
        starts, ends = self.count("start"), self.count("end")
        lost = sum(number not in ends for number in confirmed)
        twice = sum(times > 1 for times in starts.values())
        again = sum(times - 1 for times in ends.values())
        return f"confirmed {len(confirmed)}, not run {lost}, started twice {twice}, finished twice {again}"

    def reached(self, number: int) -> bool:
        """Whether so many tasks have begun."""
        return len(self.count("start")) >= number

    def finished(self, numbers: Collection[int]) -> bool:
        return set(numbers) <= set(self.count("end"))


class Worker:
    """One worker process; its output in a file."""

    def __init__(self, system: str, url: str, folder: Path) -> None:
        self.output = folder / f"worker-{time.monotonic_ns()}.txt"
        stored = results(system, url, folder)
        taskq = {"TASKQ_BROKER_URL": url, "TASKQ_RESULT_BACKEND": stored, "TASKQ_LEASE_SECONDS": str(LEASE)}
        jobs = {
            "JOBS_URL": url,
            "JOBS_RESULTS": stored,
            "JOBS_LEASE": str(LEASE),
            "JOBS_LOG": str(folder / "jobs.log"),
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[system].split()],
                cwd=folder,
                env={**os.environ, **taskq, **jobs, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def ready(self) -> bool:
        return "ready." in self.output.read_text(errors="replace") or not self.alive

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def megabytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def worker(system: str, url: str, folder: Path) -> Iterator[Worker]:
    running = Worker(system, url, folder)
    try:
        yield running
    finally:
        running.kill()


async def until(probe: Callable[[], object], within: float) -> float | None:
    """The seconds until this became true; None if it did not."""
    start = time.monotonic()
    while not probe():
        if time.monotonic() - start > within:
            return None
        await asyncio.sleep(0.05)
    return time.monotonic() - start
