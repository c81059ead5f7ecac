"""Several worker processes under one that starts them, starts them again when they die, and passes signals on.

One that ends in good order was told to (remotely, or by a signal of its own) and stays down.

Each has a node name of its own (`celery-1@host`, `celery-2@host`): each answers for itself to remote control and
in Flower, where one name for all would hide which of them is stuck.
"""

import logging
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

logger = logging.getLogger("taskq.worker")

#: Pauses before a process that died is started again, in seconds: doubling, for as long as none lives a minute.
FIRST_PAUSE, LONGEST_PAUSE, LIVED_LONG = 0.5, 30.0, 60.0

#: Exit codes that another start will not mend: wrong usage or no app, no broker.
_HOPELESS = (2, 69)
_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGTTIN,
)
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


@dataclass(slots=True)
class _Seat:
    """One of the processes that there should be: the one that runs, or when the next is to be started (inf: never)."""

    number: int
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE


@dataclass(slots=True)
class Supervisor:
    """Keeps `count` processes running: `exit_code = Supervisor(command, count).run()`.

    Args:
        command: the arguments of process number 1, 2, ...
        count: how many.
    """

    command: Callable[[int], Sequence[str]]
    count: int
    _places: list[_Seat] = field(default_factory=list)
    _stopping: bool = False
    _worst: int = 0

    def run(self) -> int:
        """Supervise until all have ended in good order or are told to stop; the worst of their exit codes."""
        self._places = [_Seat(number) for number in range(1, self.count + 1)]
        with self._signals() as woken:
            while True:
                self._start_due()
                if all(place.process is None and self._is_over(place) for place in self._places):
                    return self._worst
                self._wait(woken)
                self._reap()

    def _start_due(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.process is None and not self._stopping and place.due <= now:
                place.process = subprocess.Popen(self.command(place.number))  # noqa: S603 - our own command line
                place.started = now

    def _is_over(self, place: _Seat) -> bool:
        return self._stopping or place.due == math.inf

    def _wait(self, woken: int) -> None:
        """Until a signal comes (SIGCHLD among them), or the next start is due."""
        dues = [place.due for place in self._places if place.process is None and not self._is_over(place)]
        pause = max(0.0, min(dues) - time.monotonic()) if dues else None
        ready, _, _ = select.select([woken], [], [], pause)
        if ready:
            os.read(woken, 4096)

    def _reap(self) -> None:
        for place in self._places:
            if place.process is not None and (code := place.process.poll()) is not None:
                place.process = None
                self._ended(place, code)

    def _ended(self, place: _Seat, code: int) -> None:
        """Another is started, unless we stop, this one was told to end, or the next would end like it."""
        now = time.monotonic()
        lived = now - place.started
        if self._stopping and -code in _STOPPING:  # told to stop before it could heed that
            return
        if self._stopping or (code in _HOPELESS and lived < LIVED_LONG):
            self._worst = max(self._worst, code if code >= 0 else 128 - code)
            if not self._stopping:
                self._stop_all()
            return
        if code == 0:
            logger.warning("process %d was told to stop and stays down", place.number)
            place.due = math.inf
            return
        if lived >= LIVED_LONG:
            place.pause = FIRST_PAUSE
        place.due = now + place.pause
        logger.error(
            "process %d ended with code %d, another starts in %.1fs", place.number, code, place.pause
        )
        place.pause = min(place.pause * 2, LONGEST_PAUSE)

    def _stop_all(self) -> None:
        self._stopping = True
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.send_signal(number)

    # --- signals --------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """Signals are passed on; all of them, and the end of a child, wake the loop through a pipe."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._told) for number in _PASSED_ON}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield reader
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            os.close(reader)
            os.close(writer)

    def _told(self, number: int, _frame: FrameType | None) -> None:
        if number in _STOPPING:
            self._stopping = True
        self._pass_on(number)


def available_processors(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use: by affinity, and by the quota of its container (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        limited = max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return count
    return min(count, limited)
