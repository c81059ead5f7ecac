"""Threads for plain functions: one wake-up of the loop per pile of finished runs.

`loop.run_in_executor` costs 50 to 100 us a run, this about 4: the thread that finds the pile of finished runs
empty wakes the loop, the others only add to it.
"""

import asyncio
import contextvars
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from taskq.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from taskq.sync import worker_loop
from taskq.worker.pools.carried import carried

logger = logging.getLogger("taskq.worker")

#: An interrupt strikes within so many turns of a loop. (To call it off would leave CPython 3.11 looking out for
#: it at each instruction of every thread.)
_SOON = 100


class ThreadRun:
    """One call in a thread. `done` is resolved on the loop with its value or exception.

    An interrupt may strike between any two instructions of the thread, where a lock could be left taken for ever.
    So there is none: who interrupts says so first, who leaves says so first and then waits for that.
    """

    __slots__ = (
        "_context",
        "_fun",
        "_interrupted",
        "_interrupting",
        "_left",
        "_pool",
        "_thread",
        "abandoned",
        "done",
    )

    def __init__(self, fun: Callable[[], Any], context: contextvars.Context, pool: "ThreadPool") -> None:
        self.done: asyncio.Future[Any] = pool.loop.create_future()
        self.abandoned = False
        self._fun = fun
        self._context = context
        self._pool = pool
        self._thread: int | None = None
        self._left = False
        self._interrupting = False
        self._interrupted = False

    # --- in the thread --------------------------------------------------------------------------------------

    def call(self) -> Any:
        """Run the function, unless nobody waits for it any more."""
        if self.done.cancelled():
            return None
        self._thread = threading.get_ident()
        try:
            return self._context.run(self._fun)
        finally:
            self.leave()

    def leave(self) -> None:
        """From here on nobody interrupts it; an interrupt on its way strikes in here and is swallowed."""
        for _ in range(2):
            with suppress(SoftTimeLimitExceeded, TimeLimitExceeded, TaskRevokedError):
                self._left = True
                while self._interrupting:
                    time.sleep(0)
                if self._interrupted:
                    for _ in range(_SOON):
                        pass
                return

    # --- on the loop ----------------------------------------------------------------------------------------

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the function at its next Python instruction; does nothing once it has returned."""
        self._interrupting = True
        if self._thread is not None and not self._left:
            self._interrupted = True
            _raise_in(self._thread, error)
        self._interrupting = False

    def abandon(self) -> None:
        """Stop waiting for it. Its thread ends with it and no longer counts: another may take its place."""
        if self._thread is not None and not self.done.done():
            self.abandoned = True
            self._pool.forget()
        self.done.cancel()


class ThreadPool:
    """At most `size` daemon threads, started as they are needed.

    Daemon threads, so that a function that never returns cannot keep a stopping worker alive.
    """

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._home = (loop, os.getpid())
        self._size = size
        self._calls: SimpleQueue[ThreadRun | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._finished: list[tuple[ThreadRun, Any, BaseException | None]] = []
        self._threads = 0
        self._busy = 0

    def submit(self, fun: Callable[[], Any]) -> ThreadRun:
        """Have a function called in a thread, in the present context; blocking calls there use our loop."""
        context = contextvars.copy_context()
        context.run(worker_loop.set, self._home)
        run = ThreadRun(fun, context, self)
        if self._busy >= self._threads and self._threads < self._size:
            self._start_thread()
        self._busy += 1
        self._calls.put(run)
        return run

    def _start_thread(self) -> None:
        """Counted once it lives. Where the system has no more, the run waits for one of those there are."""
        try:
            threading.Thread(target=self._work, name=f"taskq-{self._threads + 1}", daemon=True).start()
        except RuntimeError as error:
            if self._threads == 0:
                raise
            logger.warning("%d threads of %d: %s", self._threads, self._size, error)
        else:
            self._threads += 1

    def forget(self) -> None:
        """Count a thread no longer: its run was abandoned."""
        self._threads -= 1
        self._busy -= 1

    def close(self) -> None:
        """Let idle threads end; those that run end after it."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (run := self._calls.get()) is not None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = run.call()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                error = raised
                run.leave()  # an interrupt may have come while it was leaving
            if run.abandoned:
                return
            self._hand_over(run, value, error)

    def _hand_over(self, run: ThreadRun, value: Any, error: BaseException | None) -> None:
        with self._lock:
            self._finished.append((run, value, error))
            first = len(self._finished) == 1
        if first:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        """On the loop: hand every finished run to whoever waits for it."""
        with self._lock:
            finished, self._finished = self._finished, []
        for run, value, error in finished:
            if run.abandoned:  # too late for its thread to know: it lives on
                self._threads += 1
            else:
                self._busy -= 1
            if run.done.done():
                continue
            if error is None:
                run.done.set_result(value)
            else:
                run.done.set_exception(carried(error))


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise `error` in a thread at its next Python instruction."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
