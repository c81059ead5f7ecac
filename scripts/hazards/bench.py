"""Where a trial takes place, and what trials share: streams of tasks, and waiting for what they become."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from scripts.hazards.clients import CLIENTS, Carrier, Client
from scripts.hazards.places import Place
from scripts.hazards.sides import Log, Worker, until, worker


@dataclass(frozen=True)
class Bench:
    """Where a trial takes place: a system on a private server, or on a SQLite file."""

    system: str
    url: str
    folder: Path
    server: Place | None

    def client(self) -> Client:
        return CLIENTS[self.system](self.url, self.folder)

    def carrier(self) -> Carrier:
        return Carrier(self.url)

    @property
    def place(self) -> Place:
        return cast("Place", self.server)


Trial = Callable[[Bench], Coroutine[None, None, str]]


class Stream:
    """Sends a task every 10 ms, whatever happens; counts refusals and remembers the longest call."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.confirmed: list[int] = []
        self.refused = 0
        self.longest = 0.0
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await self._client.send(number, 0.005)
                self.confirmed.append(number)
            except Exception:  # noqa: BLE001 - each system has its own errors
                self.refused += 1
            self.longest = max(self.longest, time.monotonic() - began)
            number += 1
            await asyncio.sleep(0.01)

    async def end(self) -> str:
        self._stop.set()
        await self._task
        return f"{self.refused} refused, longest call {self.longest:.1f} s"


async def recovered(log: Log, back: float, within: float = 30) -> str:
    found = await until(lambda: any(e.kind == "start" and e.at > back for e in log.events()), within)
    return f"worker works again after {found:.1f} s" if found is not None else f"no work within {within:g} s"


def decided(log: Log, numbers: Collection[int], running: Worker) -> bool:
    return log.finished(numbers) or not running.alive


async def finish(bench: Bench, log: Log, numbers: Collection[int], running: Worker, within: float) -> str:
    """Wait until all is done; a worker that has ended is started once more, as a supervisor would."""
    await until(partial(decided, log, numbers, running), within)
    if running.alive:
        return "the worker lived"
    with worker(bench.system, bench.url, bench.folder):
        await until(lambda: log.finished(numbers), within)
    return "the worker ended, and was started again"
