"""Calls from code without an event loop: each blocks until it is done.

They run on one background loop per process, or, inside a plain task, on the loop of the worker that runs it.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from taskq.options import CallOptions
from taskq.results.handles import AsyncResult, GroupResult
from taskq.results.sets import OnMessage
from taskq.seams.broker import REVOKED_FOR
from taskq.seams.store import TaskResult

if TYPE_CHECKING:
    from taskq.canvas.shapes import group
    from taskq.canvas.signature import Signature
    from taskq.task import Task

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

#: The loop of the worker that runs the current plain task, and that worker's process id; set for its threads.
worker_loop: ContextVar[tuple[asyncio.AbstractEventLoop, int] | None] = ContextVar(
    "taskq_worker_loop", default=None
)


class _Background:
    """The process's own loop in a daemon thread, started at first use and again after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._running = False

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if not self._running:
                self._running = True
                self._loops.append(asyncio.new_event_loop())
                threading.Thread(target=self._loops[-1].run_forever, name="taskq-sync", daemon=True).start()
            return self._loops[-1]

    def after_fork(self) -> None:
        """In the child: the thread is gone. Its loop is kept, since collecting it would touch the parent's sockets."""
        self._lock = threading.Lock()
        self._running = False


_background = _Background()
os.register_at_fork(after_in_child=_background.after_fork)


def run_sync(coroutine: Coroutine[Any, Any, T], instead: str) -> T:
    """Run a coroutine to its end and return its value.

    Raises:
        RuntimeError: a loop is running in this thread, which this would block; says what to await (`instead`).
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        future = asyncio.run_coroutine_threadsafe(coroutine, _loop_for_us())
    else:
        coroutine.close()
        raise RuntimeError(f"a blocking call inside a running event loop: use `await {instead}` here")
    try:
        return future.result()
    finally:
        future.cancel()  # does something only where the wait was interrupted


def _loop_for_us() -> asyncio.AbstractEventLoop:
    worker = worker_loop.get()
    if worker is not None and worker[1] == os.getpid() and worker[0].is_running():
        return worker[0]
    return _background.loop()


async def _next(events: AsyncGenerator[T, None]) -> T | None:
    return await anext(events, None)


class SyncResult(Generic[R]):
    """The blocking twin of `AsyncResult`: the same names, nothing to await."""

    __slots__ = ("handle",)

    def __init__(self, result: AsyncResult[R]) -> None:
        self.handle = result

    @property
    def id(self) -> str:
        """The task id."""
        return self.handle.id

    @property
    def state(self) -> str:
        """The state now."""
        return self.refresh().handle.state

    @property
    def status(self) -> str:
        """The same as `state`."""
        return self.state

    @property
    def result(self) -> Any:
        """The return value, the exception, or the meta of a custom state, as of now."""
        return self.refresh().handle.result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback as text, as of now."""
        return self.refresh().handle.traceback

    def refresh(self) -> "SyncResult[R]":
        """Look at the stored state now."""
        run_sync(self.handle.refresh(), "result.refresh()")
        return self

    def get(
        self, timeout: float | None = None, *, propagate: bool = True, on_message: OnMessage | None = None
    ) -> R:
        """Wait for the task and return its value; see `AsyncResult.get`."""
        return run_sync(self.handle.get(timeout, propagate=propagate, on_message=on_message), "result.get()")

    def events(self) -> Iterator[TaskResult]:
        """Every state from now on, ending with the final one; see `AsyncResult.events`."""
        events = self.handle.events()
        try:
            while event := run_sync(_next(events), "anext(result.events())"):
                yield event
        finally:
            run_sync(events.aclose(), "events.aclose()")

    def ready(self) -> bool:
        """Has the task ended?"""
        return run_sync(self.handle.ready(), "result.ready()")

    def successful(self) -> bool:
        """Has it ended well?"""
        return run_sync(self.handle.successful(), "result.successful()")

    def failed(self) -> bool:
        """Has it failed?"""
        return run_sync(self.handle.failed(), "result.failed()")

    def forget(self) -> None:
        """Remove the stored result."""
        run_sync(self.handle.forget(), "result.forget()")

    def revoke(
        self, *, terminate: bool = False, signal: str = "SIGTERM", expires: float = REVOKED_FOR
    ) -> None:
        """Have the task not run; see `AsyncResult.revoke`."""
        revoking = self.handle.revoke(terminate=terminate, signal=signal, expires=expires)
        run_sync(revoking, "result.revoke()")

    def __repr__(self) -> str:
        return f"<SyncResult {self.id} {self.handle.state}>"


class SyncGroupResult(Generic[R]):
    """The blocking twin of `GroupResult`: the same names, nothing to await."""

    __slots__ = ("handle",)

    def __init__(self, result: GroupResult[R]) -> None:
        self.handle = result

    @property
    def id(self) -> str:
        """The group id."""
        return self.handle.id

    def get(
        self, timeout: float | None = None, *, propagate: bool = True, on_message: OnMessage | None = None
    ) -> list[R]:
        """Wait for all members; their values in order. See `GroupResult.get`."""
        return run_sync(self.handle.get(timeout, propagate=propagate, on_message=on_message), "result.get()")

    def join(self, timeout: float | None = None, *, propagate: bool = True) -> list[R]:
        """The same as `get`."""
        return self.get(timeout, propagate=propagate)

    def ready(self) -> bool:
        """Have all members ended?"""
        return run_sync(self.handle.ready(), "result.ready()")

    def waiting(self) -> bool:
        """Is there a member that has not ended?"""
        return not self.ready()

    def successful(self) -> bool:
        """Have all members ended well?"""
        return run_sync(self.handle.successful(), "result.successful()")

    def failed(self) -> bool:
        """Has any member failed?"""
        return run_sync(self.handle.failed(), "result.failed()")

    def completed_count(self) -> int:
        """How many members have ended well."""
        return run_sync(self.handle.completed_count(), "result.completed_count()")

    def save(self) -> None:
        """Keep the group under its id; see `GroupResult.save`."""
        run_sync(self.handle.save(), "result.save()")

    def forget(self) -> None:
        """Remove the stored results of all members."""
        run_sync(self.handle.forget(), "result.forget()")

    def revoke(self, *, expires: float = REVOKED_FOR) -> None:
        """Have no member run that has not started."""
        run_sync(self.handle.revoke(expires=expires), "result.revoke()")

    def __iter__(self) -> "Iterator[SyncResult[R]]":
        return (SyncResult(leaf) for leaf in self.handle.leaves())

    def __len__(self) -> int:
        return len(self.handle)

    def __repr__(self) -> str:
        return f"<SyncGroupResult {self.id} of {len(self)}>"


class SyncCalls(Generic[P, R]):
    """`task.sync`: the calling verbs, blocking."""

    __slots__ = ("_task",)

    def __init__(self, task: "Task[P, R, Any]") -> None:
        self._task = task

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> SyncResult[R]:
        """Send the task; see `Task.delay`."""
        return SyncResult(run_sync(self._task.delay(*args, **kwargs), "task.delay(...)"))

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> SyncResult[R]:
        """Send the task with options; see `Task.apply_async`."""
        coroutine = self._task.apply_async(args, kwargs, **options)
        return SyncResult(run_sync(coroutine, "task.apply_async(...)"))

    def add_to_chord(self, signature: "Signature[S]") -> SyncResult[S]:
        """Have the chord of the current run wait for one task more; see `Task.add_to_chord`."""
        coroutine = self._task.add_to_chord(signature)
        return SyncResult(run_sync(coroutine, "self.add_to_chord(...)"))


class SyncSignatureCalls(Generic[R]):
    """`signature.sync`: the calling verbs of a signature or a canvas, blocking."""

    __slots__ = ("_signature",)

    def __init__(self, signature: "Signature[R]") -> None:
        self._signature = signature

    def delay(self, *args: Any, **kwargs: Any) -> SyncResult[R]:
        """Send it; see `Signature.delay`."""
        twin: SyncResult[R] = _twin(run_sync(self._signature.delay(*args, **kwargs), "signature.delay(...)"))
        return twin

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> SyncResult[R]:
        """Send it with options; see `Signature.apply_async`."""
        coroutine = self._signature.apply_async(args, kwargs, **options)
        twin: SyncResult[R] = _twin(run_sync(coroutine, "signature.apply_async(...)"))
        return twin


class SyncGroupCalls(Generic[R]):
    """`group.sync`: the calling verbs of a group, blocking."""

    __slots__ = ("_group",)

    def __init__(self, group: "group[R]") -> None:
        self._group = group

    def delay(self, *args: Any, **kwargs: Any) -> SyncGroupResult[R]:
        """Send all members; see `group.delay`."""
        return SyncGroupResult(run_sync(self._group.delay(*args, **kwargs), "group.delay(...)"))

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> SyncGroupResult[R]:
        """Send all members with options; see `group.apply_async`."""
        coroutine = self._group.apply_async(args, kwargs, **options)
        return SyncGroupResult(run_sync(coroutine, "group.apply_async(...)"))


def _twin(handle: Any) -> Any:
    """What ends in a group has a group's handle."""
    return SyncGroupResult(handle) if isinstance(handle, GroupResult) else SyncResult(handle)
