"""Child processes for plain functions that need a processor of their own or must be ended by force.

Each runs one task at a time and is kept for the next; it can be killed, with all it has started, without harm to the
others. They are fresh interpreters, never forks of this one: a fork copies locks that threads hold.
"""

import asyncio
import dataclasses
import functools
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from taskq.errors import ConfigError, SoftTimeLimitExceeded, WorkerLostError
from taskq.task import Task
from taskq.wire.request import Request
from taskq.worker.pools.carried import carried
from taskq.worker.pools.child_protocol import (
    LENGTH,
    Ended,
    Interrupt,
    LogRecord,
    Ready,
    RunCall,
    Setup,
    StateUpdate,
    framed,
    unpack_error,
)
from taskq.worker.process.lifeline import Lifeline

logger = logging.getLogger("taskq.worker")


class ProcessLost(WorkerLostError):
    """The child died, not by our hand, while it started or ran something."""


@functools.cache
def where_found(task: Task[Any, Any, Any]) -> tuple[str, str] | None:
    """Module and name under which another process finds the task; None if there is no such place.

    Functions of a script (`__main__`) and those made inside another function have none.
    """
    module, name = str(getattr(task, "__module__", "")), str(getattr(task, "__qualname__", ""))
    found: Any = None if module == "__main__" else sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is task else None


def task_modules(tasks: Iterable[Task[Any, Any, Any]]) -> list[str]:
    """The modules that tasks were made in and another process can import, apart from taskq's own."""
    modules = {str(getattr(task, "__module__", "")) for task in tasks}
    return sorted(name for name in modules if not name.startswith("taskq.") and name != "__main__")


class ProcessRun:
    """A run in a child. `done` ends with its value or exception; cancelling it kills the child."""

    __slots__ = ("_child", "done", "number", "request")

    def __init__(self, child: "ChildProcess", request: Request, number: int) -> None:
        self._child = child
        self.request = request
        self.number = number
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(self._ended)

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise SoftTimeLimitExceeded in it; for any harder error, end it."""
        if self.done.done():
            return
        if error is SoftTimeLimitExceeded:
            self._child.send(Interrupt(self.number))
        else:
            self.done.cancel()

    def abandon(self) -> None:
        """End it by force."""
        self.done.cancel()

    def _ended(self, done: "asyncio.Future[Any]") -> None:
        if done.cancelled():
            self._child.kill()


class ProcessPool:
    """At most `size` child processes, started when they are needed and kept for the runs that follow.

    Args:
        modules: names of modules that a child imports ahead of its first run.
        settings: settings that win over those a child finds by itself.
        max_tasks: a child is replaced after so many runs; None: never.
        max_memory: a child whose memory grew beyond so many kB is replaced after its run; None: never.
    """

    def __init__(
        self,
        size: int,
        *,
        modules: Callable[[], list[str]],
        settings: Mapping[str, Any],
        max_tasks: int | None,
        max_memory: int | None,
    ) -> None:
        self.size = size
        self._modules = modules
        self._settings = settings
        self._max_tasks = max_tasks
        self._max_memory = max_memory
        self._idle: list[ChildProcess] = []
        self._children: set[ChildProcess] = set()
        self._closed = False

    async def start(self, request: Request, task: Task[Any, Any, Any]) -> ProcessRun:
        """Begin a run in a child that is ready: its time counts from here.

        The caller keeps to `size` runs at a time.

        Raises:
            ConfigError: the function cannot be found by another process.
            ProcessLost: the child died while it started.
        """
        place = where_found(task)
        if place is None:
            raise ConfigError(
                f"the task {task.name} cannot run in another process: its function must be found by module and name"
            )
        child = self._idle.pop() if self._idle else self._spawn()
        try:
            await child.ready
        except asyncio.CancelledError:
            child.kill()
            raise
        return child.begin(request, place)

    async def close(self) -> None:
        """End all children; runs under way are lost."""
        self._closed = True
        children = list(self._children)
        for child in children:
            child.kill()
        if children:
            await asyncio.wait([child.reader for child in children])

    # --- told by the children -------------------------------------------------------------------------------

    def free(self, child: "ChildProcess") -> None:
        """Its run has ended well or badly, and it lives."""
        if self._is_spent(child):
            child.kill()
            if not self._closed:
                self._spawn_ahead()
        else:
            self._idle.append(child)

    def retire(self, child: "ChildProcess") -> None:
        """It gets no more runs."""
        if child in self._idle:
            self._idle.remove(child)

    def gone(self, child: "ChildProcess") -> None:
        """It has died."""
        self.retire(child)
        self._children.discard(child)

    def _is_spent(self, child: "ChildProcess") -> bool:
        return (self._max_tasks is not None and child.runs >= self._max_tasks) or (
            self._max_memory is not None and child.memory > self._max_memory
        )

    def _spawn_ahead(self) -> None:
        try:
            self._idle.append(self._spawn())
        except OSError as error:
            logger.warning("could not start a process ahead, the next run tries again: %s", error)

    def _spawn(self) -> "ChildProcess":
        level = min(logging.getLogger().getEffectiveLevel(), logging.getLogger("taskq").getEffectiveLevel())
        child = ChildProcess(self, Setup(self._modules(), level, self._settings))
        self._children.add(child)
        return child


class ChildProcess:
    """The worker's end of a child: `reader` ends when the child is gone."""

    def __init__(self, pool: ProcessPool, setup: Setup) -> None:
        self.runs = 0
        self.memory = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pool = pool
        self._run: ProcessRun | None = None
        self._writer: asyncio.StreamWriter | None = None
        ours, theirs = socket.socketpair()
        self._lifeline = lifeline = Lifeline()
        with theirs, ExitStack() as failing:
            failing.enter_context(ours)
            failing.callback(lifeline.close)
            given = (theirs.fileno(), lifeline.descriptor)
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", _boot(*given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                process_group=0,  # a group of its own: killed together with what its task has started
            )
            failing.pop_all()
        lifeline.handed_over()
        self.reader = asyncio.create_task(self._read(ours, setup), name="taskq-child")

    def begin(self, request: Request, place: tuple[str, str]) -> ProcessRun:
        """Have a task run."""
        self.runs += 1
        module, name = place
        call = RunCall(self.runs, module, name, dataclasses.replace(request, record=None))
        self.send(call)
        self._run = ProcessRun(self, request, self.runs)
        return self._run

    def send(self, frame: object) -> None:
        """Hand it a frame; one that is gone is noticed where its end is."""
        data = framed(frame)
        if self._writer is not None:
            self._writer.write(data)

    def kill(self) -> None:
        """End it now, and whatever its task has started."""
        self._pool.retire(self)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    # --- reading --------------------------------------------------------------------------------------------

    async def _read(self, sock: socket.socket, setup: Setup) -> None:
        """Whatever ends the reading ends the child, and with it the run that waits for it."""
        try:
            reader, self._writer = await asyncio.open_connection(sock=sock)
            self.send(setup)
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                self._take_written(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            pass  # it is gone
        except Exception:
            logger.exception("could not take what a process said, which is ended")
        finally:
            if self._writer is not None:
                self._writer.close()
            await self._gone()

    async def _gone(self) -> None:
        self._pool.retire(self)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what its task has left behind
        code = await asyncio.to_thread(self._process.wait)
        self._lifeline.close()
        self._pool.gone(self)
        lost = ProcessLost(f"the process that ran it ended ({_described(code)})")
        if not self.ready.done():
            self.ready.set_exception(lost)
            self.ready.exception()  # nobody may be waiting
        if self._run is not None and not self._run.done.done():
            self._run.done.set_exception(lost)

    def _take_written(self, data: bytes) -> None:
        try:
            frame = pickle.loads(data)  # noqa: S301 - from our own child
        except Exception as error:  # noqa: BLE001 - a user's class that does not come out of its pickle
            # A log record or a state: the other frames carry nothing of the user's, or have it pickled by itself.
            logger.warning("what a process logged or recorded cannot be read: %r", error)
        else:
            self._take(frame)

    def _take(self, frame: object) -> None:
        if isinstance(frame, Ready):
            if not self.ready.done():  # else nobody waits any more, and it is being killed
                self.ready.set_result(None)
        elif isinstance(frame, LogRecord):
            target = logging.getLogger(frame.record.name)
            if target.isEnabledFor(frame.record.levelno):
                target.handle(frame.record)
        elif (
            isinstance(frame, StateUpdate) and self._run is not None and self._run.request.record is not None
        ):
            self._run.request.record(frame.result)
        elif isinstance(frame, Ended) and self._run is not None:
            self._end(self._run, frame)

    def _end(self, run: ProcessRun, ended: Ended) -> None:
        self._run, self.memory = None, ended.memory
        run.request.children[:] = ended.children
        if run.done.done():  # it was told to end, and is being killed
            return
        try:
            if ended.failed:
                run.done.set_exception(carried(unpack_error(ended.payload)))
            else:
                run.done.set_result(pickle.loads(ended.payload))  # noqa: S301 - from our own child
        except Exception as error:  # noqa: BLE001 - a user's class that does not come out of its pickle
            run.done.set_exception(carried(error))
        self._pool.free(self)


def _boot(descriptor: int, lifeline: int) -> str:
    serve = f"from taskq.worker.pools.child import serve; serve({descriptor}, {lifeline})"
    return f"import sys; sys.path[:] = {sys.path!r}\n{serve}"


def _described(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
