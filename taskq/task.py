"""A registered function and everything one can do with it."""

import contextlib
import functools
import inspect
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from taskq import errors, registry
from taskq.canvas.lowering import added_to_chord
from taskq.canvas.shapes import chunks, xmap, xstarmap
from taskq.canvas.signature import Signature, as_args, as_kwargs
from taskq.config.coerce import parse_rate
from taskq.near import near_match
from taskq.options import CallOptions
from taskq.results import handles as results
from taskq.results.handles import AsyncResult
from taskq.run.outcome import once_name
from taskq.run.retries import asked_retry
from taskq.seams.app import App
from taskq.seams.connection import Connection
from taskq.seams.publisher import Publisher
from taskq.sync import SyncCalls, SyncResult, run_sync
from taskq.wire import kinds
from taskq.wire.arguments import ArgumentCheck
from taskq.wire.fields import check_names, check_options
from taskq.wire.kinds import Kind
from taskq.wire.request import Request, current
from taskq.wire.result import TaskResult

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
C = TypeVar("C")
S = TypeVar("S")


class TaskOptions(TypedDict, total=False):
    """What `@app.task(...)` takes. None means that the settings decide; times are in seconds.

    name: the task's name; default `module.function`.
    base: a subclass of `Task` with hooks or attributes of your own.
    max_retries: how often `self.retry` may be used (default 3; None = for ever).
    default_retry_delay: until a retry, unless it says otherwise (default 180).
    autoretry_for, dont_autoretry_for: exception types that are (not) retried by themselves; one type or several.
    retry_kwargs: what an automatic retry hands to `self.retry` (max_retries, countdown, ...).
    retry_backoff: wait 1, 2, 4, ... (True) or n, 2n, 4n, ... seconds; capped by retry_backoff_max (600).
    retry_jitter: wait a random time up to that instead (default True).
    run_in: where a plain function runs: "thread", or "process", which can be killed at `time_limit` and has a processor
        of its own. Default: a process if there is a `time_limit` and the function can be found by module and name,
        else a thread. Coroutines run on the worker's loop.
    throws: exception types that are expected, one or several: logged as one line, without traceback.
    rate_limit: how often each worker may start it: "10/s", "100/m", "5/h", or a number per second.
    typing: check the arguments of a call against the function (default True).
    schedule: when schedulers send it, without arguments: of `taskq.schedules`, or seconds.
    """

    name: str
    base: "type[Task[Any, Any, Any]]"
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: Sequence[type[BaseException]] | type[BaseException]
    dont_autoretry_for: Sequence[type[BaseException]] | type[BaseException]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    throws: Sequence[type[BaseException]] | type[BaseException]
    typing: bool
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    store_errors_even_if_ignored: bool | None
    track_started: bool | None
    acks_late: bool | None
    rate_limit: str | float | None
    time_limit: float | None
    soft_time_limit: float | None
    priority: int | None
    expires: float | timedelta | datetime | None
    queue: str | None
    run_in: Literal["thread", "process"] | None
    schedule: Any


#: What each option may be; None where the settings decide, or where it says so.
_KINDS: Mapping[str, Kind] = {
    "max_retries": kinds.COUNT,
    "default_retry_delay": kinds.PAUSE,
    "autoretry_for": kinds.EXCEPTIONS,
    "dont_autoretry_for": kinds.EXCEPTIONS,
    "retry_kwargs": kinds.MAPPING,
    "retry_backoff": kinds.BACKOFF,
    "retry_backoff_max": kinds.PAUSE,
    "retry_jitter": kinds.FLAG,
    "throws": kinds.EXCEPTIONS,
    "typing": kinds.FLAG,
    "serializer": kinds.NAME,
    "compression": kinds.NAME,
    "ignore_result": kinds.FLAG,
    "store_errors_even_if_ignored": kinds.FLAG,
    "track_started": kinds.FLAG,
    "acks_late": kinds.FLAG,
    "rate_limit": kinds.RATE,
    "time_limit": kinds.LIMIT,
    "soft_time_limit": kinds.LIMIT,
    "priority": kinds.PRIORITY,
    "expires": kinds.EXPIRY,
    "queue": kinds.QUEUE,
    "run_in": kinds.RUN_IN,
    "schedule": kinds.ANYTHING,  # read by taskq/schedules, which says what is none
}
_NAMED = frozenset(TaskOptions.__annotations__)
#: Options that only make sense with a value.
_NEVER_NONE = frozenset(
    ("default_retry_delay", "retry_backoff", "retry_backoff_max", "retry_jitter", "retry_kwargs", "typing")
)
_SEVERAL = ("autoretry_for", "dont_autoretry_for", "throws")


class Task(Generic[P, R, C]):
    """A task: call it with `await task.delay(...)`, run it here and now with `task(...)`.

    Made by `@app.task`. The type parameters are the function's parameters, its result, and what a direct call
    gives (a coroutine for an `async def`).

    Subclass it (`base=`) for hooks; each may be a plain method or a coroutine:
    `before_start`, `on_success`, `on_failure`, `on_retry`, `after_return`.
    """

    #: Raised when a message could not be handed to the broker.
    OperationalError: ClassVar[type[errors.OperationalError]] = errors.OperationalError
    #: Raised when a task has been retried `max_retries` times.
    MaxRetriesExceededError: ClassVar[type[errors.MaxRetriesExceededError]] = errors.MaxRetriesExceededError

    name: str
    bind: bool = False
    max_retries: int | None = 3
    default_retry_delay: float = 180
    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    throws: Sequence[type[BaseException]] = ()
    typing: bool = True
    schedule: Any = None
    serializer: str | None = None
    compression: str | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    rate_limit: str | float | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    priority: int | None = None
    expires: float | timedelta | datetime | None = None
    queue: str | None = None
    run_in: Literal["thread", "process"] | None = None

    def __init__(
        self,
        fun: Callable[..., Any],
        app: App | None,
        name: str,
        options: Mapping[str, Any],
        *,
        bind: bool,
    ) -> None:
        for option, value in options.items():
            if option not in _KINDS:
                raise TypeError(f"unknown option {option!r} of a task.{near_match(option, _NAMED)}")
            setattr(self, option, value)
        kinds.NAME.check("the name of a task", name)
        self.name = name
        self.bind = bind
        self._check_options()
        self.is_async = _is_async(fun, name)
        if self.is_async and self.run_in is not None:
            raise TypeError(
                f"run_in={self.run_in!r} of the task {name}: plain functions run in 'thread' or 'process'"
            )
        self._plain = fun
        self._function = functools.partial(fun, self) if self.bind else fun
        self.run: Callable[..., Any] = self._function
        if not self.is_async and inspect.iscoroutinefunction(inspect.unwrap(fun)):
            self.run = functools.partial(_awaited, self._function)
        self._app = app
        self.arguments = ArgumentCheck(fun, bound=self.bind, name=name)
        functools.update_wrapper(cast("Callable[..., Any]", self), fun, updated=())

    @property
    def place(self) -> tuple[str, str, str, int]:
        """Where its function is defined: module, qualified name, file, line."""
        fun = inspect.unwrap(self._plain)
        code = getattr(fun, "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code else ("", 0)
        return fun.__module__, getattr(fun, "__qualname__", ""), file, line

    def _check_options(self) -> None:
        """Refuse options, given here or by a subclass, with which no run would work. One exception class is one of several."""
        for option in _SEVERAL:
            value = getattr(self, option)
            if isinstance(value, type) or value is None:
                setattr(self, option, () if value is None else (value,))
        for option, kind in _KINDS.items():
            value = getattr(self, option)
            if value is not None or option in _NEVER_NONE:
                kind.check(f"{option} of the task {self.name}", value)
        parse_rate(self.rate_limit)
        retried = {
            key: value for key, value in self.retry_kwargs.items() if key not in {"max_retries", "exc"}
        }
        try:
            check_options(retried)
        except (TypeError, ValueError) as error:
            raise type(error)(f"retry_kwargs of the task {self.name}: {error}") from None

    @property
    def app(self) -> App:
        """The app it belongs to; for a shared task the current app."""
        if self._app is None:
            return registry.current()
        return self._app

    # --- calling --------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Run the function here and now, in this process, as if it were no task."""
        result: C = self._function(*args, **kwargs)
        return result

    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task to a worker; the short form of `apply_async`.

        Raises:
            TypeError: the arguments do not fit the function.
            EncodeError: an argument cannot be serialized.
            OperationalError: the message could not be handed to the broker.
        """
        result: AsyncResult[R] = await self.app.send(Signature(self.name, args, kwargs))
        return result

    async def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Send the task to a worker.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            options: see docs/calling.md and `CallOptions`: countdown, eta, expires, link, link_error, retry,
                retry_policy, serializer, compression, queue, priority, headers, ignore_result, ...

        Raises:
            TypeError: the arguments do not fit the function, or an option is unknown or of a wrong type.
            ValueError: an option is out of bounds, such as a negative `time_limit`.
            EncodeError: an argument cannot be serialized.
            OperationalError: the message could not be handed to the broker: at once with `retry=False`, else
                when the retry policy is exhausted.
        """
        check_names(options)
        result: AsyncResult[R] = await self.app.send(Signature(self.name, args, kwargs, options))
        return result

    @property
    def sync(self) -> "SyncTaskCalls[P, R]":
        """The same verbs, blocking, for code without an event loop: `task.sync.delay(2, 2).get()`."""
        return SyncTaskCalls(self)

    def apply(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> "Awaitable[AsyncResult[R]]":
        """Run it here and now as a worker would (retries, callbacks, states), without a broker.

        Await it for a result handle that has already ended.
        """
        check_options(options)
        return self.app.apply(Signature(self.name, args, kwargs, options, app=self.app))

    @overload
    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]: ...
    @overload
    def s(self: "Task[Concatenate[Any, Q], R, C]", *args: Q.args, **kwargs: Q.kwargs) -> Signature[R]: ...
    @overload
    def s(
        self: "Task[Concatenate[Any, Any, Q], R, C]", *args: Q.args, **kwargs: Q.kwargs
    ) -> Signature[R]: ...
    @overload
    def s(
        self: "Task[Concatenate[Any, Any, Any, Q], R, C]", *args: Q.args, **kwargs: Q.kwargs
    ) -> Signature[R]: ...
    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature of this task with these arguments.

        Up to three positional ones at the front may be left open: those of a later call, or the result of what
        comes before it in a chain. What is given must fit the others.
        """
        return Signature(self.name, args, kwargs, app=self.app)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """An immutable signature: it ignores the result of a parent."""
        return Signature(self.name, args, kwargs, app=self.app, immutable=True)

    def signature(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[R]:
        """A signature with options; see `apply_async`. Partial arguments are allowed."""
        check_options(options)
        return Signature(self.name, args, kwargs, options, app=self.app, immutable=immutable)

    @contextlib.asynccontextmanager
    async def get_publisher(self, connection: Connection | None = None) -> AsyncIterator[Publisher]:
        """A publisher to reuse for many calls: `task.apply_async(..., publisher=publisher)`.

        Args:
            connection: from `app.pool.acquire()` or `app.connection()`; default the loop's own.

        Raises:
            OperationalError: the broker could not be reached.
        """
        used = connection or self.app.shared_connection()
        await used.open_broker()
        yield used.publisher

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """The handle of a call of this task by its id."""
        handle: AsyncResult[R] = self.app.AsyncResult(task_id)
        return handle

    # --- inside a run ---------------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """The current run of this task; one with `called_directly` where it was called like a function."""
        request = current.get()
        if request is None or request.task != self.name:
            return Request(id="", task=self.name, called_directly=True)
        return request

    def update_state(self, state: str, meta: Any = None) -> "Recorded":
        """Record a state of the current run: callers that follow the task see it, in order.

        Works in coroutines and in plain tasks. Awaiting what it returns waits until the state is stored;
        that is never needed for the order. Outside a worker it does nothing.

        Args:
            state: any text of your own, "PROGRESS" by custom.
            meta: what goes with it; the result serializer must be able to write it.
        """
        request = self.request
        if request.record is None:
            return Recorded(None)
        result = TaskResult(request.id, state, meta, children=request.children, reply_to=request.reply_to)
        return Recorded(request.record(result))

    def progress(self, done: float, total: float, message: str = "") -> "Recorded":
        """Record how far the run has come, as state PROGRESS: shown as a bar by `taskq call --wait`.

        Args:
            done: how much is done.
            total: how much there is, in the same unit.
            message: what is being done.
        """
        percent = 100.0 * done / total if total else 100.0
        meta = {"current": done, "total": total, "percent": round(percent, 1), "description": message}
        return self.update_state("PROGRESS", meta)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        exc: BaseException | None = None,
        max_retries: int | None = None,
        **options: Unpack[CallOptions],
    ) -> errors.Retry:
        """Have the current run done again: `raise self.retry(exc=error, countdown=10)`.

        It always raises; `raise` in front only tells readers (and type checkers) so.

        Args:
            args: other positional arguments; None = the same.
            kwargs: other keyword arguments; None = the same.
            exc: why; stored with state RETRY, and raised when there are no retries left.
            max_retries: instead of the task's.
            options: `eta` or `countdown` say when, default in `default_retry_delay` seconds; others change the
                call, see `apply_async`.

        Raises:
            Retry: it will be run again.
            MaxRetriesExceededError: there are no retries left and no `exc` was given.
            BaseException: `exc`, when there are no retries left or the task was called directly.
        """
        check_options(options)
        request = self.request
        if request.called_directly:
            raise exc or errors.Retry("the task can be retried", exc)
        eta = options.get("eta")
        if isinstance(eta, str):
            options["eta"] = datetime.fromisoformat(eta)
        args = None if args is None else as_args(args)
        kwargs = None if kwargs is None else as_kwargs(kwargs)
        raise asked_retry(self, request, args, kwargs, exc=exc, max_retries=max_retries, **options)

    def replace(self, signature: Signature[Any]) -> errors.Replaced:
        """Have a signature run in place of the current run: `raise self.replace(other.s(x))`.

        It takes over the id, the callbacks and the place in a chain, group or chord; a group's list of results
        becomes the result. It always raises; `raise` in front only tells readers (and type checkers) so.

        Raises:
            Replaced: ends the current run.
        """
        raise errors.Replaced(signature)

    async def add_to_chord(self, signature: Signature[S]) -> "results.AsyncResult[S]":
        """Have the chord of the current run wait for one task more, and send that.

        Its result comes last in the list that the body gets. Done again by a redelivered run, it is the same
        task. In a plain task: `self.sync.add_to_chord(...)`.

        Raises:
            ValueError: the current task is no member of a chord.
            OperationalError, StoreError: it could not be sent.
        """
        request = self.request
        placed = added_to_chord(request, signature)
        name, chord = placed.options["task_id"], placed.options["group_id"]
        await (await self.app.open_store()).grow_chord(chord, name)
        result: results.AsyncResult[S] = await self.app.send(
            placed, once=once_name("added", chord, name, request.chord)
        )
        return result

    def map(self, items: Iterable[Any]) -> Signature[list[R]]:
        """One task that calls this one for each item, in one process: the list of results."""
        return xmap(self._named(), items)

    def starmap(self, items: Iterable[Sequence[Any]]) -> Signature[list[R]]:
        """The same with each item as the positional arguments of a call."""
        return xstarmap(self._named(), items)

    def chunks(self, items: Iterable[Sequence[Any]], n: int) -> chunks[R]:
        """A group of `starmap` tasks with `n` items each: a list of lists of results."""
        return chunks(self._named(), items, n)

    def _named(self) -> Signature[R]:
        return Signature(self.name, app=self.app)

    # --- hooks: called only where a subclass has its own ----------------------------------------------------

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Before a run."""

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """After a run that ended well."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: str | None,
    ) -> Any:
        """After a run that failed; `einfo` is the traceback as text."""

    def on_retry(
        self,
        exc: BaseException | None,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: str | None,
    ) -> Any:
        """After a run that will be done again."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: str | None,
    ) -> Any:
        """After every run; `retval` is the return value or the exception."""

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def tell_of_namesakes(before: Task[Any, Any, Any] | None, task: Task[Any, Any, Any]) -> None:
    """Warn where two functions have one task name: only the later one is ever run.

    A module that is imported again, and a cell of a notebook, define the same function once more: that is no mistake.
    """
    if before is None:
        return
    old, new = before.place, task.place
    if old[:2] != new[:2] or (old[2] == new[2] and old[3] != new[3]):
        shown = " and ".join(f"{file}:{line}" for _, _, file, line in (old, new))
        warnings.warn(
            f"two functions have the task name {task.name!r}, at {shown}: the later one is the task",
            RuntimeWarning,
            stacklevel=4,
        )


def _is_async(fun: Callable[..., Any], name: str) -> bool:
    """Whether a function is a coroutine function, or an object that is called like one.

    Raises:
        TypeError: it is a generator function: nobody would take what it yields.
    """
    called = fun if inspect.isroutine(fun) else getattr(fun, "__call__", fun)  # noqa: B004 - the method itself
    for one in (fun, called, inspect.unwrap(fun)):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise TypeError(f"the task {name} is a generator: return a list, or send a task for each item")
    return inspect.iscoroutinefunction(fun) or inspect.iscoroutinefunction(called)


def _awaited(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what a decorator made of a coroutine function: a coroutine that it gives is run on the worker's loop."""
    returned = function(*args, **kwargs)
    return run_sync(returned, "the task") if inspect.iscoroutine(returned) else returned


class SyncTaskCalls(SyncCalls[P, SyncResult[R]]):
    """`task.sync`: the calling verbs, blocking, and what a run can do with its chord."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[P, R, Any]) -> None:
        super().__init__(task)
        self._task = task

    def add_to_chord(self, signature: Signature[S]) -> SyncResult[S]:
        """Have the chord of the current run wait for one task more; see `Task.add_to_chord`."""
        return SyncResult(run_sync(self._task.add_to_chord(signature), "self.add_to_chord(...)"))


class Recorded:
    """What `update_state` returns: await it to wait until the state is stored, or leave it."""

    __slots__ = ("_stored",)

    def __init__(self, stored: Awaitable[None] | None) -> None:
        self._stored = stored

    def __await__(self) -> Generator[Any, None, None]:
        if self._stored is not None:
            yield from self._stored.__await__()
