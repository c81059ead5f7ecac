"""Calls from code without an event loop: each blocks until it is done.

They run on one background loop per process, or, inside a plain task, on the loop of the worker that runs it.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack

from taskq.options import CallOptions
from taskq.results.handles import AsyncResult, GroupResult, OnMessage
from taskq.wire.result import TaskResult

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
H_co = TypeVar("H_co", covariant=True)

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


class _Twin(Generic[H_co]):
    """The blocking form of a handle."""

    __slots__ = ("handle",)

    def __init__(self, handle: H_co) -> None:
        self.handle = handle


def _blocking(
    method: Callable[Concatenate[H_co, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Twin[H_co], P], T]:
    """The blocking form of a handle's method."""

    @wraps(method)
    def blocking(twin: _Twin[H_co], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_sync(method(twin.handle, *args, **kwargs), f"result.{method.__name__}()")

    return blocking


class SyncResult(_Twin[AsyncResult[R]], Generic[R]):
    """The blocking twin of `AsyncResult`: the same names, nothing to await."""

    __slots__ = ()

    ready = _blocking(AsyncResult.ready)
    successful = _blocking(AsyncResult.successful)
    failed = _blocking(AsyncResult.failed)
    forget = _blocking(AsyncResult.forget)
    revoke = _blocking(AsyncResult.revoke)

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

    def __repr__(self) -> str:
        return f"<SyncResult {self.id} {self.handle.state}>"


class SyncGroupResult(_Twin[GroupResult[R]], Generic[R]):
    """The blocking twin of `GroupResult`: the same names, nothing to await."""

    __slots__ = ()

    ready = _blocking(GroupResult.ready)
    waiting = _blocking(GroupResult.waiting)
    successful = _blocking(GroupResult.successful)
    failed = _blocking(GroupResult.failed)
    completed_count = _blocking(GroupResult.completed_count)
    save = _blocking(GroupResult.save)
    forget = _blocking(GroupResult.forget)
    revoke = _blocking(GroupResult.revoke)

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

    def __iter__(self) -> "Iterator[SyncResult[R]]":
        return (SyncResult(leaf) for leaf in self.handle.leaves())

    def __len__(self) -> int:
        return len(self.handle)

    def __repr__(self) -> str:
        return f"<SyncGroupResult {self.id} of {len(self)}>"


class Calling(Protocol[P]):
    """What is sent by these verbs: a task, a signature, a canvas."""

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Any]: ...

    def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Coroutine[Any, Any, Any]: ...


class SyncCalls(Generic[P, T]):
    """`signature.sync`, `group.sync`: the calling verbs, blocking. `T` is the twin of the handle they give."""

    __slots__ = ("_calls",)

    def __init__(self, calls: Calling[P]) -> None:
        self._calls = calls

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Send it; see `Task.delay`."""
        twin: T = _twin(run_sync(self._calls.delay(*args, **kwargs), f"{self._name}.delay(...)"))
        return twin

    def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> T:
        """Send it with options; see `Task.apply_async`."""
        coroutine = self._calls.apply_async(args, kwargs, **options)
        twin: T = _twin(run_sync(coroutine, f"{self._name}.apply_async(...)"))
        return twin

    @property
    def _name(self) -> str:
        return type(self._calls).__name__.lower()


def _twin(handle: Any) -> Any:
    """What ends in a group has a group's handle."""
    return SyncGroupResult(handle) if isinstance(handle, GroupResult) else SyncResult(handle)
