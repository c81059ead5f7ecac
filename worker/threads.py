"""Threads for plain functions: one wake-up of the loop per pile of finished runs.

`loop.run_in_executor` costs 50 to 100 us a run, this about 4: the thread that finds the pile of finished runs
empty wakes the loop, the others only add to it.
"""

import asyncio
import contextvars
import ctypes
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from taskq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from taskq.sync import worker_loop

_INTERRUPTS = (SoftTimeLimitExceeded, TimeLimitExceeded)


def thread_context() -> contextvars.Context:
    """The present context for a thread, in which blocking calls are carried out on the worker's loop."""
    context = contextvars.copy_context()
    context.run(worker_loop.set, asyncio.get_running_loop())
    return context


class ThreadRun:
    """One call in a thread. `done` is resolved on the loop with its value or exception."""

    __slots__ = ("_lock", "_thread", "context", "done", "fun")

    def __init__(
        self, fun: Callable[[], Any], context: contextvars.Context, done: "asyncio.Future[Any]"
    ) -> None:
        self.fun = fun
        self.context = context
        self.done = done
        self._thread: int | None = None
        self._lock = threading.Lock()

    def call(self) -> Any:
        """In the thread: run the function."""
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self.context.run(self.fun)
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the function at its next Python instruction; does nothing once it has returned."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(error)
                )


class ThreadPool:
    """At most `size` daemon threads, started as they are needed.

    Daemon threads, so that a function that never returns cannot keep a stopping worker alive.
    """

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._size = size
        self._loop = loop
        self._calls: SimpleQueue[ThreadRun | None] = SimpleQueue()
        self._finished: deque[tuple[ThreadRun, Any, BaseException | None]] = deque()
        self._threads = 0
        self._busy = 0

    def submit(self, fun: Callable[[], Any], context: contextvars.Context) -> ThreadRun:
        """Have a function called in a thread, inside the context."""
        run = ThreadRun(fun, context, self._loop.create_future())
        self._busy += 1
        if self._busy > self._threads and self._threads < self._size:
            self._start_thread()
        self._calls.put(run)
        return run

    def abandon(self, run: ThreadRun) -> None:
        """Stop waiting for a run that does not end: its thread no longer counts, another takes its place."""
        if not run.done.done():
            run.done.cancel()
            self._size += 1

    def close(self) -> None:
        """Let idle threads end; those that run end after it."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name=f"taskq-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        while (run := self._calls.get()) is not None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = run.call()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                error = raised
            try:
                self._hand_over(run, value, error)
            except _INTERRUPTS:  # an interrupt that came when the function had already returned
                self._hand_over(run, value, error)

    def _hand_over(self, run: ThreadRun, value: Any, error: BaseException | None) -> None:
        self._finished.append((run, value, error))
        if len(self._finished) == 1 and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        """On the loop: hand every finished run to whoever waits for it."""
        finished = self._finished
        while finished:
            run, value, error = finished[0]
            self._busy -= 1
            if not run.done.done():
                if error is None:
                    run.done.set_result(value)
                else:
                    run.done.set_exception(error if isinstance(error, Exception) else _as_exception(error))
            finished.popleft()


def _as_exception(error: BaseException) -> Exception:
    """SystemExit and its like end the function, not the worker."""
    wrapped = RuntimeError(f"the task ended its thread with {error!r}")
    wrapped.__cause__ = error
    return wrapped
