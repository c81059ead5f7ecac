"""Who takes part: the worker processes, and the sender with what it was told."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.soak.places import Place
from taskq import TaskQ
from taskq.errors import OperationalError
from taskq.results.handles import AsyncResult

ROOT = Path(__file__).parent.parent.parent
LEASE = 3.0
#: Seconds that results are kept.
EXPIRES = 10
#: Tasks that are sent one after the other, and the pause after them: about a hundred a second.
BATCH, PAUSE = 20, 0.2
#: Of so many tasks one is sent for later (seconds, at most), and one has its result waited for.
EVERY, LATER = 20, 5.0

TASKS = """
import asyncio, os, time
from taskq import TaskQ

app = TaskQ("soak")
log = os.open(os.environ["SOAK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task(name="soak.job")
async def job(number: int, due: float) -> int:
    if time.time() < due - 0.001:
        os.write(log, b"early %d\\n" % number)
    await asyncio.sleep(0.02)
    os.write(log, b"end %d\\n" % number)
    return number
"""


class Worker:
    """One process, which can be started again after a fault."""

    def __init__(self, name: str, place: Place, folder: Path) -> None:
        self._command = [sys.executable, "-m", "taskq", "worker", "-A", "soak_tasks", "-c", "20"]
        self._command += ["-l", "warning", "-n", f"{name}@soak"]
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SOAK_LOG": str(folder / "runs.log"),
            "TASKQ_BROKER_URL": place.url,
            "TASKQ_RESULT_BACKEND": place.results,
            "TASKQ_LEASE_SECONDS": str(LEASE),
            "TASKQ_BROKER_HEARTBEAT": "2",
            "TASKQ_RESULT_EXPIRES": str(EXPIRES),
        }
        self.running = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with (self._folder / "workers.log").open("ab") as out:
            return subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=out, stderr=out
            )

    @property
    def ended(self) -> bool:
        return self.running.poll() is not None

    def start(self) -> None:
        self.running = self._start()

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    async def terminate(self) -> int:
        """Ask it to end, as deployments do; its exit code, or that of a kill where it takes longer than 40 s."""
        self.running.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self.running.wait, 40)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.running.returncode


class Sender:
    """Sends all the time; knows what was confirmed, and what was answered."""

    def __init__(self, place: Place, rng: random.Random) -> None:
        self._app = TaskQ(
            "soak", broker=place.url, backend=place.results, result_expires=EXPIRES, broker_heartbeat=2
        )
        self._rng = rng
        self._patience = place.patience
        self.sent = 0
        #: Numbers whose sending was not confirmed; few, unlike those that were.
        self.refused: set[int] = set()
        self.answered = 0
        self.unanswered = 0
        self._waiting: set[asyncio.Task[None]] = set()

    async def send(self, end: float) -> None:
        """Until this time, then wait for the answers that are due."""
        while time.monotonic() < end:
            for _ in range(BATCH):
                self.sent += 1
                try:
                    await self._send(self.sent)
                except OperationalError:
                    self.refused.add(self.sent)
            await asyncio.sleep(PAUSE)
        if self._waiting:
            await asyncio.wait(self._waiting)

    async def _send(self, number: int) -> None:
        if number % EVERY == 1:
            due = time.time() + self._rng.uniform(0, LATER)
            eta = datetime.fromtimestamp(due, UTC)
            await self._app.send_task("soak.job", (number, due), eta=eta, ignore_result=True)
        elif number % EVERY == 2:
            result = await self._app.send_task("soak.job", (number, 0.0))
            task = asyncio.create_task(self._answer(number, result))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        else:
            await self._app.send_task("soak.job", (number, 0.0), ignore_result=True)

    async def _answer(self, number: int, result: AsyncResult[Any]) -> None:
        with suppress(TimeoutError, OperationalError):
            if await result.get(timeout=self._patience) == number:
                self.answered += 1
                return
        self.unanswered += 1

    async def dead_letters(self) -> int:
        """How many there are."""
        return len(await (await self._app.open_broker()).dead())

    async def close(self) -> None:
        await self._app.close()


class Log:
    """What the tasks wrote, read as it grows; kept small, for the sender's memory is watched."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self._ends = bytearray()  # how often each number was run to its end
        self.early = 0

    def read(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            word, _, text = line.partition(b" ")
            number = int(text)
            if word == b"early":
                self.early += 1
                continue
            self._ends.extend(bytes(max(0, number + 1 - len(self._ends))))
            self._ends[number] = min(255, self._ends[number] + 1)

    def has(self, number: int) -> bool:
        """Whether this one was run."""
        return number < len(self._ends) and self._ends[number] > 0

    @property
    def twice(self) -> int:
        """How many were run more than once."""
        return sum(count > 1 for count in self._ends)

    def lost(self, sent: int, refused: set[int]) -> int:
        """How many were confirmed to the sender, and have not run."""
        self.read()
        return sum(not self.has(number) and number not in refused for number in range(1, sent + 1))

    def close(self) -> None:
        self._file.close()
