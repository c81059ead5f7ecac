"""Runs one system through one scenario and reads its figures from outside: the same way for every system.

A worker is started, runs one task, and is stopped (SIGSTOP) while the client enqueues; then it goes on, and what it
and the server spend until all tasks have run and nothing moves any more is the drain. So neither start nor import
is in any figure, and enqueueing and draining do not disturb each other.
"""

import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tally import counts, total

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / "benchmarks" / ".venv-peers" / "bin" / "python"
DEADLINE = 40.0


@dataclass(frozen=True)
class System:
    """One way of running one system: `module` of benchmarks/peers, `tasks` to drain in one go."""

    name: str
    module: str
    tasks: int = 1000
    variant: str = ""
    #: It can enqueue many in one call: concurrent calls are measured besides.
    batches: bool = False

    @property
    def python(self) -> str:
        return sys.executable if self.module.startswith("ours") else str(PEERS_PYTHON)


@dataclass
class Site:
    """Where the systems meet: address of broker and result store, and the server's process."""

    broker: str
    results: str
    server: Iterable[int] = ()
    clean: Callable[[], None] = lambda: None


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all its threads, to the nanosecond; 0 when it has ended.

    The clock of another process is what clock_getcpuclockid(3) gives: ~pid << 3 | 2.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def session_members(leader: int) -> list[int]:
    """The processes of a session: a worker and what it has started."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                )
            except OSError:
                continue
            if int(fields[3]) == leader:
                members.append(int(entry.name))
    return members


class Process:
    """A side of a system (see side.py) in a session of its own."""

    def __init__(self, role: str, system: System, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [system.python, "-m", "benchmarks.side", role, system.module],
                cwd=ROOT,
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if role == "client" else errors,
                stderr=errors,
                start_new_session=True,
                text=True,
            )

    @property
    def members(self) -> list[int]:
        return session_members(self._popen.pid)

    def peak(self) -> int:
        return sum(peak_bytes(pid) for pid in self.members)

    def signal(self, number: int) -> None:
        for pid in self.members:
            os.kill(pid, number)

    def require_alive(self) -> None:
        if self._popen.poll() is not None:
            raise Failure(f"ended with {self._popen.returncode}:\n{self.log.read_text()[-3000:]}")

    def ask(self, verb: str, n: int) -> dict[str, Any]:
        """Have the client do something; its figures."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({"verb": verb, "n": n}) + "\n")
        self._popen.stdin.flush()
        return self.answer(verb)

    def answer(self, verb: str = "start") -> dict[str, Any]:
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], DEADLINE)
        line = self._popen.stdout.readline() if ready else ""
        if not line:
            raise Failure(f"the client does not answer to {verb}:\n{self.log.read_text()[-3000:]}")
        figures: dict[str, Any] = json.loads(line)
        return figures

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()


class Failure(Exception):
    """A system did not do what it was asked to."""


@dataclass
class Stage:
    """One scenario: a system's workers and its client at a site."""

    system: System
    site: Site
    folder: Path
    results: bool
    done: int = 0
    workers: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        tally = self.folder / "tally"
        tally.mkdir()
        self._tally = tally
        self._env = {
            "BENCH_BROKER": self.site.broker.format(folder=self.folder),
            "BENCH_RESULTS": self.site.results.format(folder=self.folder) if self.results else "",
            "BENCH_VARIANT": self.system.variant,
            "BENCH_TALLY": str(tally),
            "PYTHONPATH": str(ROOT),
        }
        self.client = self._start("client")

    def _start(self, role: str) -> Process:
        return Process(role, self.system, self._env, self.folder / f"{role}.log")

    def open(self, workers: int) -> None:
        """Start client and workers, and run a first task."""
        self.client.answer()
        self.workers = [self._start("worker") for _ in range(workers)]
        if workers:
            self.client.ask("one_by_one", 1)
            self.wait_for(1)

    def warm_up(self, processes: int) -> None:
        """Run single tasks until each process has run one."""
        deadline = time.monotonic() + DEADLINE
        while len(self.counts()) < processes:
            if time.monotonic() > deadline:
                raise Failure(f"not all of {processes} processes run tasks")
            self.client.ask("one_by_one", 5)
            self.wait_for(5)

    def counts(self) -> list[int]:
        """How many tasks each process has run, the fewest first."""
        return sorted(count for count, _ in counts(self._tally))

    def close(self) -> None:
        for process in (*self.workers, self.client):
            process.end()

    # --- what is read ---------------------------------------------------------------------------------------

    def worker_cpu(self) -> float:
        return sum(cpu_seconds(pid) for worker in self.workers for pid in worker.members)

    def server_cpu(self) -> float:
        return sum(map(cpu_seconds, self.site.server))

    def wait_for(self, tasks: int) -> float:
        """Wait until so many more tasks have run; when the last did."""
        self.done += tasks
        deadline = time.monotonic() + DEADLINE
        while (found := total(self._tally))[0] < self.done:
            for worker in self.workers:
                worker.require_alive()
            if time.monotonic() > deadline:
                log = (self.folder / "worker.log").read_text()[-3000:]
                raise Failure(f"{found[0]} of {self.done} tasks have run in {DEADLINE:.0f} s\n{log}")
            time.sleep(0.01)
        if found[0] > self.done:
            raise Failure(f"{found[0]} tasks have run, {self.done} were sent")
        self.quiet()
        return found[1]

    def quiet(self) -> None:
        """Wait until neither workers nor server do anything to speak of: acks and results are done."""
        pids = [*self.site.server, *(pid for worker in self.workers for pid in worker.members)]
        deadline = time.monotonic() + 3
        still = 0
        before = sum(map(cpu_seconds, pids))
        while still < 2 and time.monotonic() < deadline:
            time.sleep(0.06)
            after = sum(map(cpu_seconds, pids))
            still = still + 1 if after - before < 0.004 else 0
            before = after

    # --- measurements ---------------------------------------------------------------------------------------

    def enqueue_then_drain(self, verb: str, n: int) -> dict[str, Any]:
        self._pause()
        enqueue = self._client(verb, n)
        self.quiet()
        cpu, server, began = self.worker_cpu(), self.server_cpu(), time.monotonic()
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
        ended = self.wait_for(n)
        drain = {
            "worker_us": _micro(self.worker_cpu() - cpu, n),
            "server_us": _micro(self.server_cpu() - server, n),
            "rate": n / (ended - began),
        }
        return {"enqueue": enqueue, "drain": drain}

    def _pause(self) -> None:
        """Stop the workers where they hold no lock of the SQLite file."""
        path = Path(self._env["BENCH_BROKER"])
        for _ in range(100):
            for worker in self.workers:
                worker.signal(signal.SIGSTOP)
            if not path.is_file() or _unlocked(path):
                return
            for worker in self.workers:
                worker.signal(signal.SIGCONT)
            time.sleep(0.003)
        raise Failure("the workers hold the file's lock all the time")

    def _client(self, verb: str, n: int) -> dict[str, Any]:
        server = self.server_cpu()
        figures = self.client.ask(verb, n)
        server = self.server_cpu() - server
        return {
            "client_us": _micro(figures["cpu"], n),
            "server_us": _micro(server, n),
            "rate": n / figures["wall"],
            "value": figures["value"],
        }

    def end_to_end(self, n: int) -> dict[str, Any]:
        cpu = self.worker_cpu()
        figures = self._client("end_to_end", n)
        self.wait_for(n)
        return {**figures, "worker_us": _micro(self.worker_cpu() - cpu, n)}

    def round_trips(self, n: int) -> dict[str, float]:
        seconds = self._client("round_trips", n)["value"]
        self.wait_for(n)
        return {"p50_ms": seconds[n // 2] * 1e3, "p99_ms": seconds[n * 99 // 100] * 1e3}

    def inside(self, n: int) -> dict[str, Any]:
        value = self.client.ask("inside", n)["value"]
        return {
            verb: {
                "client_us" if verb == "enqueue" else "worker_us": _micro(cpu, n),
                "server_us": 0.0,
                "rate": n / wall,
            }
            for verb, (cpu, wall) in value.items()
        }


def _micro(seconds: float, n: int) -> float:
    return seconds * 1e6 / n


def _unlocked(path: Path) -> bool:
    with sqlite3.connect(path, timeout=0) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        finally:
            db.rollback()
    db.close()
    return True


@contextmanager
def stage(system: System, site: Site, *, results: bool, workers: int) -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="taskq-bench-"))
    site.clean()
    scene = Stage(system, site, folder, results)
    try:
        scene.open(workers)
        yield scene
    except Failure as failure:
        raise Failure(f"{system.name}: {failure}") from None
    finally:
        scene.close()
        shutil.rmtree(folder, ignore_errors=True)
