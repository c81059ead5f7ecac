"""Several worker processes under one that starts them, starts them again when they die, and passes signals on.

One that ends in good order was told to (remotely, or by a signal of its own) and stays down.

Each has a process group of its own: a Ctrl-C on the terminal comes here alone and is passed on once. When this process
is killed, they are, too.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from taskq.worker.process.lifeline import Lifeline, tie_to
from taskq.worker.process.pulse import PULSE, Pulse, shared_memory

logger = logging.getLogger("taskq.worker")

#: Pauses before a process that died is started again, in seconds: doubling, for as long as none lives a minute.
FIRST_PAUSE, LONGEST_PAUSE, LIVED_LONG = 0.5, 30.0, 60.0

#: Seconds between two looks at the pulses of the processes.
LOOK = 0.5
#: A process that is silent past the hard limit of all its runs has so many seconds more before it is killed.
MERCY = 5.0
#: After so many seconds of silence a process whose runs have no limits is worth a warning.
WORRYING = 10.0

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
class Seat:
    """What a process under a supervisor is told: its number, and the descriptors of lifeline and pulse."""

    number: int
    lifeline: int
    pulse: int

    def __str__(self) -> str:
        return f"{self.number}:{self.lifeline}:{self.pulse}"

    @classmethod
    def parse(cls, text: str) -> "Seat":
        """From how it is written. Raises ValueError."""
        number, lifeline, pulse = map(int, text.split(":"))
        return cls(number, lifeline, pulse)

    def take(self) -> None:
        """Become that process."""
        tie_to(self.lifeline)
        PULSE.attach(self.pulse)


@dataclass(slots=True)
class _Supervised:
    """One of the processes that there should be: the one that runs, or when the next is to be started (inf: never).

    `silent`: for how many seconds its pulse has stood still at `beaten`, and whether that was told.
    """

    number: int
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE
    lifeline: Lifeline | None = None
    pulse: Pulse = field(default_factory=Pulse)
    beaten: float = 0.0
    silent: float = 0.0
    told: bool = False


@dataclass(slots=True)
class Supervisor:
    """Keeps `count` processes running: `exit_code = Supervisor(command, count).run()`.

    Args:
        command: the arguments of the process that takes a seat.
        count: how many.
        environ: what their environment has beyond ours.
    """

    command: Callable[[Seat], Sequence[str]]
    count: int
    environ: Mapping[str, str] = field(default_factory=dict)
    _children: list[_Supervised] = field(default_factory=list)
    _looked: float = 0.0
    _stopping: bool = False
    _worst: int = 0

    def run(self) -> int:
        """Supervise until all have ended in good order or are told to stop; the worst of their exit codes."""
        self._children = [_Supervised(number) for number in range(1, self.count + 1)]
        with self._signals() as woken:
            self._looked = time.monotonic()
            while True:
                self._start_due()
                if all(child.process is None and self._is_over(child) for child in self._children):
                    return self._worst
                self._wait(woken)
                self._reap()
                self._look()

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is None and not self._stopping and child.due <= now:
                self._start(child)
                child.started = now

    def _start(self, child: _Supervised) -> None:
        lifeline = child.lifeline = Lifeline()
        seat = Seat(child.number, lifeline.descriptor, shared_memory())
        child.pulse.attach(seat.pulse)
        child.silent, child.told = 0.0, False
        try:
            child.process = subprocess.Popen(  # noqa: S603 - our own command line
                self.command(seat),
                stdin=subprocess.DEVNULL,  # who reads from a terminal in the background is stopped
                env={**os.environ, **self.environ},
                pass_fds=(seat.lifeline, seat.pulse),
                process_group=0,
            )
        finally:
            lifeline.handed_over()
            os.close(seat.pulse)

    def _is_over(self, child: _Supervised) -> bool:
        return self._stopping or child.due == math.inf

    def _wait(self, woken: int) -> None:
        """Until a signal comes (SIGCHLD among them), the next start is due, or it is time to look."""
        dues = [child.due for child in self._children if child.process is None and not self._is_over(child)]
        pause = min([LOOK, *(due - time.monotonic() for due in dues)])
        ready, _, _ = select.select([woken], [], [], max(0.0, pause))
        if ready:
            os.read(woken, 4096)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                child.process = None
                if child.lifeline is not None:
                    child.lifeline.close()
                self._ended(child, code)

    def _look(self) -> None:
        """Has any process fallen silent? Time that we did not see ourselves, as we were stopped, does not count."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * LOOK), now
        for child in self._children:
            if child.process is None:
                continue
            before, child.beaten = child.beaten, child.pulse.beaten
            if child.beaten == 0.0 or child.beaten != before:
                child.silent, child.told = 0.0, False
            else:
                child.silent += passed
                self._judge(child, child.process, child.pulse.limit)

    def _judge(self, child: _Supervised, process: "subprocess.Popen[bytes]", limit: float) -> None:
        if limit and child.silent > limit + MERCY:
            logger.critical(
                "process %d (pid %d) has run nothing else for %.0f s, past the time limit of its tasks (%g s): killed",
                *(child.number, process.pid, child.silent, limit),
            )
            process.kill()
        elif child.silent > WORRYING and not child.told:
            child.told = True
            logger.warning(
                "process %d (pid %d) runs nothing else for %.0f s now: a call that holds the interpreter, or it is stopped%s",
                *(child.number, process.pid, child.silent),
                "" if limit else "; with a time limit on the task it would be ended",
            )

    def _ended(self, child: _Supervised, code: int) -> None:
        """Another is started, unless we stop, this one was told to end, or the next would end like it."""
        now = time.monotonic()
        lived = now - child.started
        if self._stopping and -code in _STOPPING:  # told to stop before it could heed that
            return
        if self._stopping or (code in _HOPELESS and lived < LIVED_LONG):
            self._worst = max(self._worst, code if code >= 0 else 128 - code)
            if not self._stopping:
                self._stop_all()
            return
        if code == 0:
            logger.warning("process %d was told to stop and stays down", child.number)
            child.due = math.inf
            return
        if lived >= LIVED_LONG:
            child.pause = FIRST_PAUSE
        child.due = now + child.pause
        logger.error(
            "process %d ended with code %d, another starts in %.1fs", child.number, code, child.pause
        )
        child.pause = min(child.pause * 2, LONGEST_PAUSE)

    def _stop_all(self) -> None:
        self._stopping = True
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(number)

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
