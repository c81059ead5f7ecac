"""Signs of life from a worker process to its supervisor, in memory that both see.

A C call that holds the interpreter stops all threads of its process, those that watch it included. Only another process can
see that, and silence is all there is to see. So what a supervisor must know is written down before a run begins.
"""

import mmap
import os
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds between two beats.
BEAT = 0.5

#: When it beat the last time (`time.monotonic`, the same in all processes of a machine; 0: it rests), and the longest
#: hard limit of the runs under way (0: none has one).
_BEATEN, _LIMIT = 0, 8
_VALUE = struct.Struct("d")
_SIZE = 16


class Pulse:
    """Both sides of it. Until it is attached nobody looks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._limits: Counter[float] = Counter()

    def attach(self, descriptor: int) -> None:
        """Use the memory behind a descriptor from now on."""
        self._memory = mmap.mmap(descriptor, _SIZE)

    # --- the worker -----------------------------------------------------------------------------------------

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat from a thread meanwhile."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=[over], name="taskq-pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._write(_BEATEN, 0.0)

    def _beat(self, over: threading.Event) -> None:
        while True:
            self._write(_BEATEN, time.monotonic())
            if over.wait(BEAT):
                return

    @contextmanager
    def limited(self, hard: float | None) -> Iterator[None]:
        """A run in this process is under way that may take so many seconds. On the loop's thread."""
        if hard is None:
            yield
            return
        self._limits[hard] += 1
        self._write(_LIMIT, max(self._limits))
        try:
            yield
        finally:
            self._limits[hard] -= 1
            if not self._limits[hard]:
                del self._limits[hard]
            self._write(_LIMIT, max(self._limits, default=0.0))

    def _write(self, where: int, value: float) -> None:
        _VALUE.pack_into(self._memory, where, value)

    # --- the supervisor -------------------------------------------------------------------------------------

    @property
    def beaten(self) -> float:
        """When it beat the last time; 0: it does not, yet or any more."""
        return self._read(_BEATEN)

    @property
    def limit(self) -> float:
        """The longest hard limit of the runs under way; 0: none has one."""
        return self._read(_LIMIT)

    def _read(self, where: int) -> float:
        value: float = _VALUE.unpack_from(self._memory, where)[0]
        return value


def shared_memory() -> int:
    """A descriptor to attach to, of memory without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("taskq-pulse")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _SIZE)
    return descriptor


#: That of this process.
PULSE = Pulse()
