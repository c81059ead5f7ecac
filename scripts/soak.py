"""Random faults for a while, and what they cost: `make soak`, `SOAK=3600 make soak`.

Three workers on a private Redis (with its log on disk) run what a sender sends all the time. Every few seconds one of two
workers is killed (-9) or stopped for longer than its lease, or the broker is killed and started again. The third
worker is left alone: its memory and files are watched. At the end every task whose sending was confirmed must have run.

    python scripts/soak.py [SECONDS] [SEED]
"""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from taskq import TaskQ
from taskq.errors import OperationalError

ROOT = Path(__file__).parent.parent
LEASE = 3.0
#: Tasks that are sent at once, and the pause after them: about a hundred a second.
BATCH, PAUSE = 20, 0.2
#: Seconds between two faults, at least and at most.
QUIET = (3.0, 8.0)
#: After the last fault all that was sent must have run within so many seconds.
PATIENCE = 60.0
#: What a worker may gain in memory, in kB a minute, once it is warm: more is a leak.
STEEPEST = 1024.0

TASKS = """
import asyncio, os
from taskq import TaskQ

app = TaskQ("soak")
log = os.open(os.environ["SOAK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task(name="soak.job")
async def job(number: int) -> int:
    os.write(log, b"start %d\\n" % number)
    await asyncio.sleep(0.02)
    os.write(log, b"end %d\\n" % number)
    return number
"""


@dataclass
class Process:
    """A program that is started again after a fault."""

    command: list[str]
    folder: Path
    environment: dict[str, str]
    running: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with (self.folder / "out.log").open("ab") as out:
            self.running = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )

    @property
    def pid(self) -> int:
        if self.running is None:
            raise RuntimeError(f"not started: {self.command}")
        return self.running.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait()


@dataclass
class Soak:
    """The parties, and what was seen of them."""

    folder: Path
    seconds: float
    rng: random.Random
    port: int = 0
    confirmed: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = free_port()
        url = f"redis://127.0.0.1:{self.port}/0"
        self.log = self.folder / "runs.log"
        self.log.touch()
        (self.folder / "soak_tasks.py").write_text(TASKS)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SOAK_LOG": str(self.log),
            "TASKQ_BROKER_URL": url,
            "TASKQ_RESULT_BACKEND": url,
            "TASKQ_LEASE_SECONDS": str(LEASE),
            "TASKQ_RESULT_EXPIRES": "60",
        }
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        redis = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]
        self.broker = Process(redis, self.folder, environment)
        worker = [sys.executable, "-m", "taskq", "worker", "-A", "soak_tasks", "-c", "20", "-l", "warning"]
        self.workers = [Process([*worker, "-n", f"w{n}@soak"], self.folder, environment) for n in range(3)]
        self.app = TaskQ("soak", broker=url, backend=url)

    # --- the time of faults ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start all, send and disturb, then wait until all that was confirmed has run."""
        self.broker.start()
        await asyncio.to_thread(wait_for, self._broker_answers)
        for worker in self.workers:
            worker.start()
        end = time.monotonic() + self.seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(end))
            group.create_task(self._disturb(end))
            group.create_task(self._watch(end))
        with suppress(TimeoutError):
            await asyncio.to_thread(wait_for, lambda: not self.lost(), PATIENCE)
        await self.app.close()

    async def _send(self, end: float) -> None:
        number = 0
        while time.monotonic() < end:
            for _ in range(BATCH):
                number += 1
                try:
                    await self.app.send_task("soak.job", (number,), ignore_result=True)
                except OperationalError:
                    self.refused += 1
                else:
                    self.confirmed += 1
                    self.numbers.append(number)
            await asyncio.sleep(PAUSE)

    async def _disturb(self, end: float) -> None:
        while True:
            pause = self.rng.uniform(*QUIET)
            if time.monotonic() + pause > end:
                return
            await asyncio.sleep(pause)
            fault = self.rng.choice((self._kill_worker, self._stop_worker, self._restart_broker))
            self.faults[fault.__name__.strip("_")] += 1
            await fault()

    async def _kill_worker(self) -> None:
        worker = self.rng.choice(self.workers[:2])
        worker.kill()
        worker.start()

    async def _stop_worker(self) -> None:
        worker = self.rng.choice(self.workers[:2])
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(LEASE + 2.0)
        worker.send(signal.SIGCONT)

    async def _restart_broker(self) -> None:
        self.broker.kill()
        await asyncio.sleep(self.rng.uniform(0.2, 2.0))
        self.broker.start()
        await asyncio.to_thread(wait_for, self._broker_answers)

    def _broker_answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        return False

    async def _watch(self, end: float) -> None:
        """Memory and open files of the worker that is left alone."""
        while time.monotonic() < end:
            status = Path(f"/proc/{self.workers[2].pid}/status")
            with suppress(OSError, StopIteration):
                line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))  # noqa: ASYNC240 - /proc does not block
                self.memory.append((time.monotonic(), int(line.split()[1])))
                self.files.append(len(os.listdir(f"/proc/{self.workers[2].pid}/fd")))  # noqa: PTH208 - likewise
            await asyncio.sleep(1.0)

    # --- figures --------------------------------------------------------------------------------------------

    def ends(self) -> Counter[int]:
        """How often each number was run to its end."""
        lines = (line.split() for line in self.log.read_text().splitlines())
        return Counter(int(number) for event, number in lines if event == "end")

    def lost(self) -> int:
        """Confirmed to the sender, and not run."""
        ended = self.ends()
        return sum(number not in ended for number in self.numbers)

    def figures(self) -> dict[str, object]:
        """All of them."""
        ended = self.ends()
        warm = self.memory[len(self.memory) // 3 :]
        return {
            "seconds": round(self.seconds),
            "faults": dict(self.faults),
            "confirmed": self.confirmed,
            "refused": self.refused,
            "run": len(ended),
            "lost": self.lost(),
            "run_twice": sum(count > 1 for count in ended.values()),
            "rss_kb": warm[-1][1] if warm else 0,
            "rss_slope_kb_per_minute": round(slope(warm) * 60, 1),
            "fds_first": self.files[len(self.files) // 3] if self.files else 0,
            "fds_last": self.files[-1] if self.files else 0,
        }

    def stop(self) -> None:
        """End all that was started."""
        for worker in self.workers:
            worker.kill()
        self.broker.kill()


def slope(points: list[tuple[float, int]]) -> float:
    """Of the line through the points, by least squares."""
    if len(points) < 2:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    width = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / width


def wait_for(probe: Callable[[], bool], within: float = 20.0) -> None:
    """Until it holds."""
    deadline = time.monotonic() + within
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{probe} did not hold")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main(arguments: list[str]) -> int:
    """0 where nothing was lost and memory is flat."""
    if shutil.which("redis-server") is None:
        sys.exit("soak: redis-server is not installed")
    seconds = float(arguments[0]) if arguments else 120.0
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(10**6)  # noqa: S311 - no secret
    print(f"soak: {seconds:g} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="taskq-soak-") as folder:
        soak = Soak(Path(folder), seconds, random.Random(seed))  # noqa: S311 - no secret
        try:
            asyncio.run(soak.run())
            figures = soak.figures()
        finally:
            soak.stop()
    print(json.dumps(figures, indent=2))
    # Short runs are too short to tell a leak from warming up.
    leaks = seconds >= 600 and soak.memory and float(str(figures["rss_slope_kb_per_minute"])) > STEEPEST
    return 1 if figures["lost"] or leaks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
