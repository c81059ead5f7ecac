"""Three workers run what a sender sends; every few seconds something is done to two of them, or to their broker.

The third worker has its connections reset and its broker restarted like all others, and is never hurt itself: its memory
and its open files are watched, and the sender's. At the end every task whose sending was confirmed must have run.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.soak.parties import EXPIRES, TASKS, Log, Sender, Worker
from scripts.soak.places import Place, Server

#: Seconds between two faults, at least and at most.
QUIET = (3.0, 8.0)
#: Seconds the broker is away, at least and at most.
AWAY = (0.2, 2.0)
#: Exit codes of a worker that was told to end: it did, or it was not there yet and the signal ended it.
CLEAN = (0, -signal.SIGTERM)


@dataclass
class Watched:
    """Memory and open files of a process over time."""

    memory: list[tuple[float, int]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def look(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        if resident:  # not of a process that has ended
            self.memory.append((time.monotonic(), int(resident[0])))
            self.files.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def figures(self, who: str) -> dict[str, object]:
        """From when a third of the time is over: then it is warm."""
        warm = len(self.memory) // 3
        return {
            f"{who}_kb": self.memory[-1][1],
            f"{who}_kb_per_minute": round(slope(self.memory[warm:]) * 60, 1),
            f"{who}_files": [self.files[warm], self.files[-1]],
        }


def slope(points: list[tuple[float, int]]) -> float:
    """Of the line through the points, by least squares."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    width = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / width if width else 0.0


class Soak:
    """The parties, and what was seen of them."""

    def __init__(self, place: Place, folder: Path, seconds: float, rng: random.Random) -> None:
        self._place = place
        self._seconds = seconds
        self._rng = rng
        (folder / "soak_tasks.py").write_text(TASKS)
        self._log = Log(folder / "runs.log")
        self._sender = Sender(place, random.Random(rng.random()))  # noqa: S311 - no secret
        self._workers = [Worker(f"w{number}", place, folder) for number in range(3)]
        self._faults: Counter[str] = Counter()
        self._ended_by_itself: list[int] = []  # exit codes
        self._unclean_exits: list[int] = []
        self._worker, self._client = Watched(), Watched()

    async def figures(self) -> dict[str, object]:
        """Run it all, and tell what came of it."""
        try:
            end = time.monotonic() + self._seconds
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sender.send(end))
                group.create_task(self._disturb(end))
                group.create_task(self._watch(end))
            lost = await self._settled()
            dead = await self._sender.dead_letters()
            await self._sender.close()
            await asyncio.gather(*map(self._terminate, self._workers))
        finally:
            for worker in self._workers:
                worker.kill()
            self._log.close()
        found = {
            "seconds": round(self._seconds),
            "faults": dict(self._faults),
            **self._counts(),
            "lost": lost,
        }
        seen = self._worker.figures("worker") | self._client.figures("client")
        return {**found, "dead_letters": dead, **seen, "left": await asyncio.to_thread(self._place.left)}

    def _counts(self) -> dict[str, object]:
        sender, log = self._sender, self._log
        return {
            "confirmed": sender.sent - len(sender.refused),
            "refused": len(sender.refused),
            "refused_and_run": sum(map(log.has, sender.refused)),
            "run_twice": log.twice,
            "early": log.early,
            "answered": sender.answered,
            "unanswered": sender.unanswered,
            "ended_by_itself": self._ended_by_itself,
            "unclean_exits": self._unclean_exits,
        }

    async def _settled(self) -> int:
        """Wait until all that was confirmed has run, and results have expired; what is lost."""
        deadline = time.monotonic() + self._place.patience
        while lost := self._log.lost(self._sender.sent, self._sender.refused):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(EXPIRES + 2)
        return lost

    async def _watch(self, end: float) -> None:
        while time.monotonic() < end:
            self._worker.look(self._workers[2].running.pid)
            self._client.look(os.getpid())
            self._log.read()
            await asyncio.sleep(1.0)

    # --- faults ---------------------------------------------------------------------------------------------

    async def _disturb(self, end: float) -> None:
        faults: dict[str, Callable[[], Awaitable[None]]]
        faults = {"SIGKILL": self._kill, "SIGSTOP": self._stop, "SIGTERM": self._end}
        if (server := self._place.server) is not None:
            faults["broker restarted"] = partial(self._restart, server)
            faults["connections reset"] = partial(self._reset, server)
        while time.monotonic() + (pause := self._rng.uniform(*QUIET)) < end:
            await asyncio.sleep(pause)
            self._replace_ended()
            name = self._rng.choice(list(faults))
            self._faults[name] += 1
            await faults[name]()

    def _replace_ended(self) -> None:
        for worker in self._workers:
            if worker.ended:
                self._ended_by_itself.append(worker.running.returncode)
                worker.start()

    async def _kill(self) -> None:
        """SIGKILL of a worker."""
        worker = self._rng.choice(self._workers[:2])
        worker.kill()
        worker.start()

    async def _stop(self) -> None:
        """SIGSTOP of a worker, for longer than its lease."""
        worker = self._rng.choice(self._workers[:2])
        worker.running.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._place.pause)
        worker.running.send_signal(signal.SIGCONT)

    async def _end(self) -> None:
        """SIGTERM of a worker."""
        worker = self._rng.choice(self._workers[:2])
        await self._terminate(worker)
        worker.start()

    async def _terminate(self, worker: Worker) -> None:
        code = await worker.terminate()
        if code not in CLEAN:
            self._unclean_exits.append(code)

    async def _restart(self, server: Server) -> None:
        """The broker is killed, and started again."""
        server.process.kill()
        await asyncio.sleep(self._rng.uniform(*AWAY))
        await asyncio.to_thread(server.process.start)

    async def _reset(self, server: Server) -> None:
        """All connections to the broker are reset."""
        server.network.cut()
