"""The workers of the two systems on trial, seen alike: how to start one, what its tasks wrote down."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from scripts.hazards.clients import results

ROOT = Path(__file__).parent.parent.parent
CONCURRENCY = 20
#: Seconds after which a dead worker's messages go to others: taskq's lease, Celery's visibility timeout.
LEASE = 5.0
#: What taskq reads at most, so that the large messages of the trials need not be that large.
LIMITS = {"TASKQ_MAX_MESSAGE_BYTES": "250000", "TASKQ_MAX_INFLATED_BYTES": "1000000"}


COMMANDS = {
    "taskq": f"taskq worker -A scripts.hazards.jobs_taskq -c {CONCURRENCY} -l info",
    "celery": f"celery -A scripts.hazards.jobs_celery worker -c {CONCURRENCY} -l INFO --without-gossip --without-mingle",
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
        self._events: list[Event] = []
        self._read = 0  # bytes

    def events(self) -> list[Event]:
        """All that was written so far; only what is new is read."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                new, newline, _ = file.read().rpartition(b"\n")
            self._read += len(new) + len(newline)
            parts = (line.split() for line in new.decode("ascii").splitlines())
            self._events += [Event(kind, int(number), float(at), int(pid)) for kind, number, at, pid in parts]
        return self._events

    def count(self, kind: str) -> Counter[int]:
        return Counter(event.number for event in self.events() if event.kind == kind)

    def verdict(self, confirmed: Collection[int]) -> str:
        starts, ends = self.count("start"), self.count("end")
        lost = sum(number not in ends for number in confirmed)
        twice = sum(times > 1 for times in starts.values())
        again = sum(times - 1 for times in ends.values())
        return f"confirmed {len(confirmed)}, not run {lost}, started twice {twice}, finished twice {again}"

    def first(self, kind: str, number: int) -> float:
        """When this was written for the first time."""
        return next(event.at for event in self.events() if event[:2] == (kind, number))

    def reached(self, number: int) -> bool:
        """Whether so many tasks have begun."""
        return len(self.count("start")) >= number

    def finished(self, numbers: Collection[int]) -> bool:
        return len(self.events()) >= 2 * len(numbers) and set(numbers) <= set(self.count("end"))


class Worker:
    """One worker process; its output in a file. `pool` is for Celery: time limits need `prefork` there."""

    def __init__(self, system: str, url: str, folder: Path, pool: str = "threads") -> None:
        self.output = folder / f"worker-{time.monotonic_ns()}.txt"
        stored = results(system, url, folder)
        taskq = {"TASKQ_BROKER_URL": url, "TASKQ_RESULT_BACKEND": stored, "TASKQ_LEASE_SECONDS": str(LEASE)}
        taskq |= LIMITS
        jobs = {
            "JOBS_URL": url,
            "JOBS_RESULTS": stored,
            "JOBS_LEASE": str(LEASE),
            "JOBS_LOG": str(folder / "jobs.log"),
        }
        pools = ["--pool", pool] if system == "celery" else []
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[system].split(), *pools],
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

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def worker(system: str, url: str, folder: Path, pool: str = "threads") -> Iterator[Worker]:
    running = Worker(system, url, folder, pool)
    try:
        yield running
    finally:
        running.kill()


class Keeper:
    """Keeps a worker running, as a supervisor would: `look` starts another where it has ended."""

    def __init__(self, *place: Any) -> None:
        self._start = partial(Worker, *place)
        self._worker = self._start()
        self.ended_at: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.kill()

    @property
    def ready(self) -> bool:
        return self._worker.ready

    @property
    def ends(self) -> int:
        return len(self.ended_at)

    def look(self) -> None:
        if not self._worker.alive:
            self.ended_at.append(time.time())
            self._worker = self._start()

    def until_finished(self, log: Log, numbers: Collection[int]) -> bool:
        """A probe: whether all of these are done; looks after the worker."""
        self.look()
        return log.finished(numbers)

    async def anew(self, between: Callable[[], Awaitable[None]]) -> None:
        """End it, do something, and start another."""
        self._worker.kill()
        await asyncio.sleep(1)  # until the broker has seen that it is gone
        await between()
        self._worker = self._start()
        await until(lambda: self.ready, 30)


def megabytes(pid: int) -> float:
    """The memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


async def until(probe: Callable[[], object], within: float) -> float | None:
    """The seconds until this became true; None if it did not."""
    start = time.monotonic()
    while not probe():
        if time.monotonic() - start > within:
            return None
        await asyncio.sleep(0.05)
    return time.monotonic() - start
