"""The app: the registry of tasks, the settings, and the one verb `send`."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload
from weakref import WeakKeyDictionary

from taskq import registry, signals
from taskq.builtins import builtin_tasks
from taskq.calls import CallBuilder
from taskq.canvas.budget import Budget, budget_of
from taskq.canvas.lowering import frozen, lowered, result_tuple
from taskq.canvas.signature import AnySignature, Signature, as_signature, new_id
from taskq.clock import LamportClock, now
from taskq.config.celery_names import no_attribute
from taskq.config.loading import autodiscover
from taskq.config.routing import Router
from taskq.config.settings import Settings
from taskq.errors import ConfigError, NotRegistered, PublishErrors
from taskq.near import near_match
from taskq.options import CallOptions
from taskq.remote.control import Control
from taskq.remote.events import Events
from taskq.results.handles import AsyncResult, GroupResult, result_from_tuple
from taskq.run.eager import run_eagerly
from taskq.seams.app import Prepared
from taskq.seams.broker import Broker, BrokerConfig
from taskq.seams.connection import Connection
from taskq.seams.publisher import DEADLINE, Publisher, announce_before, publish_with_retry, retry_policy
from taskq.seams.records import Retention
from taskq.seams.store import ResultStore, StoreConfig, require_chords
from taskq.seams.urls import mask, store_url
from taskq.streamed import Stream, source_of
from taskq.sync import SyncCalls
from taskq.task import Task, TaskOptions, tell_of_namesakes
from taskq.wire.fields import check_names, check_options, check_values
from taskq.wire.message import Message
from taskq.wire.request import Request, current
from taskq.wire.serializers import PICKLE, bounded, content_allowed, get_serializer, register_serializer

if TYPE_CHECKING:
    from taskq.schedules.api import Schedules

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class TaskQ:
    """An app: `app = TaskQ("proj")`, then `@app.task`.

    Args:
        main: its name; tasks of a script (`__main__`) are named after it.
        broker: URL of the broker; default the setting `broker_url`, else a SQLite file beside your code.
        backend: URL of the result store; default the setting `result_backend`, else as the broker.
        include: modules a worker imports because they have tasks.
        settings: any setting by its name; see docs/settings.md.

    Raises:
        ConfigError: a setting is unknown or has a wrong value.

    Use it as `async with app:` where connections should be closed at the end; they open by themselves.
    """

    def __init__(
        self,
        main: str = "taskq",
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        self.main = main
        named = {"broker_url": broker, "result_backend": backend, "include": include}
        given = {key: value for key, value in named.items() if value is not None}
        self.conf = Settings.load({**given, **settings}, module=_file_of_caller())
        self._own: dict[str, Task[Any, Any, Any]] = builtin_tasks(self)
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, Connection] = WeakKeyDictionary()
        self._calls: CallBuilder | None = None
        self._router: Router | None = None
        #: Our reply address, constant for the process (wire-format.md 1.2, `reply_to`).
        self.oid = new_id()
        self.pool = ConnectionPool(self)
        #: The logical clock of this process's events and control messages.
        self.clock = LamportClock()
        self.control, self.events = Control(self), Events(self)
        #: What `add_periodic_task` has declared, by name.
        self.periodic: dict[str, Mapping[str, Any]] = {}
        #: Celery's hooks for `add_periodic_task`; they are called with the app before its schedules are first used.
        self.on_after_configure = signals.Signal("on_after_configure")
        self.on_after_finalize = signals.Signal("on_after_finalize")
        registry.set_current(self)

    # --- tasks ----------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any, Any]]:
        """All registered tasks by name, shared ones included."""
        return {**registry.shared, **self._own}

    def find_task(self, name: str) -> Task[Any, Any, Any] | None:
        """The task of that name, or None."""
        return self._own.get(name) or registry.shared.get(name)

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> "_BoundDecorator": ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> "_Decorator": ...
    def task(  # type: ignore[misc]  # mypy does not see that Unpack[TaskOptions] covers the overloads
        self, fun: Callable[..., Any] | None = None, /, *, bind: bool = False, **options: Unpack[TaskOptions]
    ) -> Any:
        """Make a function a task: `@app.task`, or `@app.task(bind=True, max_retries=5)`.

        `async def` functions run on the worker's event loop, plain ones in its threads. With `bind` the function
        gets the task itself as first argument (`self`). Further options: `TaskOptions`.

        Raises:
            TypeError: an option is unknown.
        """

        def register(function: Callable[..., Any]) -> Task[Any, Any, Any]:
            task = make_task(function, self, self.main, options, bind=bind)
            tell_of_namesakes(self._own.get(task.name), task)
            self._own[task.name] = task
            return task

        return register if fun is None else register(fun)

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Signature[Any] | Task[Any, Any, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Unpack[CallOptions],
    ) -> str:
        """Have schedulers (`taskq beat`) send a task; the name of the entry.

        Args:
            schedule: of `taskq.schedules`, seconds, a timedelta, or an object of `celery.schedules`.
            sig: the task: `add.s(2, 2)`.
            args: positional arguments before those of the signature.
            kwargs: keyword arguments beside those of the signature.
            name: of the entry; default the call as text, `proj.add(2, 2)`.
            opts: further options of the call, as `expires`.

        Raises:
            TypeError: the schedule is none, `sig` is a canvas, or an option is unknown.
            ValueError: the schedule has a wrong value.
        """
        from taskq.schedules.entries import declaration  # noqa: PLC0415 - a floor, loaded only when used

        call = as_signature(sig.s() if isinstance(sig, Task) else sig, self).clone(args, kwargs, **opts)
        key = name or repr(call)
        self.periodic[key] = declaration(schedule, call)
        return key

    @property
    def schedules(self) -> "Schedules":
        """Periodic tasks at run time: put, pause, run now, ... See docs/schedules.md."""
        from taskq.schedules.api import Schedules  # noqa: PLC0415 - a floor, loaded only when used

        return Schedules(self)

    def autodiscover_tasks(self, packages: Sequence[str], related_name: str = "tasks") -> None:
        """Import `<package>.<related_name>` of each package that has one."""
        autodiscover(packages, related_name)

    def set_current(self) -> None:
        """Make this the app that shared tasks use."""
        registry.set_current(self)

    # --- settings -------------------------------------------------------------------------------------------

    def config_from_object(self, source: Any, *, namespace: str = "") -> None:
        """Take settings from a module, an object, or the dotted name of one.

        Args:
            source: its attributes that are settings are taken; `namespace="CELERY"` takes `CELERY_...` ones.
            namespace: the prefix of the names, "" for none.

        Raises:
            ConfigError: it cannot be imported, or a setting is unknown or has a wrong value.
        """
        self.conf.from_object(source, namespace=namespace)

    def setup_security(self) -> None:
        """Have bodies signed with a key and checked by certificates: Celery's serializer `auth`. Raises ConfigError."""
        from taskq.wire.auth import KeyFiles, serializer_from_files  # noqa: PLC0415 - an optional extra

        conf = self.conf
        if conf.task_serializer != "auth":
            raise ConfigError(
                'set task_serializer = "auth" and accept_content = ["auth"] to have messages signed'
            )
        if not (conf.security_key and conf.security_certificate and conf.security_cert_store):
            raise ConfigError(
                "signed messages need security_key, security_certificate and security_cert_store"
            )
        files = KeyFiles(
            conf.security_key, conf.security_certificate, conf.security_cert_store, conf.security_key_password
        )
        register_serializer(serializer_from_files(files, conf.security_digest, now))

    @property
    def router(self) -> Router:
        """Decides the queue of each call, from the settings as they are at first use."""
        if self._router is None:
            self._router = Router(self.conf)
        return self._router

    def broker_config(self, url: str | None = None) -> BrokerConfig:
        """What the broker is opened with, from the settings; `url` for another broker."""
        conf = self.conf
        return BrokerConfig(
            url=url or conf.broker_url,
            lease=conf.lease_seconds,
            queue=self.router.queue,
            queues=lambda: tuple(self.router.queues.values()),
            options=conf.broker_transport_options,
            timeout=conf.broker_connection_timeout,
            heartbeat=conf.broker_heartbeat,
            ssl=_tls(conf.broker_use_ssl),
            held_bytes=conf.worker_held_bytes,
            name=self.main,
            max_message_bytes=conf.max_message_bytes,
            publish_timeout=conf.task_publish_retry_policy.get("timeout") or DEADLINE,
            retention=Retention(
                conf.dead_limit, conf.dead_retention or None, conf.revoked_limit, conf.announced_limit
            ),
        )

    def store_config(self) -> StoreConfig:
        """What the result store is opened with, from the settings.

        Raises:
            ConfigError: `rpc://` without an AMQP broker, or results in pickle, which `accept_content` does not name.
        """
        conf = self.conf
        if conf.result_serializer == "pickle" and not content_allowed(PICKLE, conf.accept_content):
            raise ConfigError(
                'result_serializer = "pickle" runs what it reads: add "pickle" to accept_content, or use "json"'
            )
        tls = conf.broker_use_ssl if conf.result_backend in {None, "rpc://"} else conf.redis_backend_use_ssl
        return StoreConfig(
            url=store_url(conf.result_backend, conf.broker_url),
            expires=conf.result_expires,
            serializer=bounded(get_serializer(conf.result_serializer), conf.max_message_values),
            options=conf.result_backend_transport_options,
            timeout=conf.broker_connection_timeout,
            ssl=_tls(tls),
        )

    # --- connections ----------------------------------------------------------------------------------------

    def shared_connection(self) -> Connection:
        """The connections of the running loop (made, not yet opened)."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            # A connection refers to its loop, so that closed ones would stay for ever.
            for closed in [other for other in self._connections if other.is_closed()]:
                del self._connections[closed]
            connection = self._connections[loop] = self.connection()
        return connection

    async def open_broker(self) -> Broker:
        """The broker of the running loop, connected. Raises OperationalError."""
        return await self.shared_connection().open_broker()

    async def open_store(self) -> ResultStore:
        """The result store of the running loop, connected. Raises StoreError."""
        return await self.shared_connection().open_store()

    def connection(self, url: str | None = None) -> Connection:
        """Connections of your own, to another broker if `url` says so: `async with app.connection() as c:`."""
        return Connection(self.broker_config(url), self.store_config(), self.conf.ledger_url)

    async def close(self) -> None:
        """Close the connections of the running loop; the next use opens them again."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- sending --------------------------------------------------------------------------------------------

    async def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Send a task by its name; it need not be known here. Options and errors as for `Task.apply_async`."""
        check_names(options)
        return await self.send(Signature(name, args, kwargs, options))  # type: ignore[no-any-return]  # one task's

    async def send(self, signature: Signature[Any], *, once: str | None = None) -> Any:
        """Publish what a signature stands for; the handle of its result.

        `once` names it for a broker that publishes what has a name a single time (`Features.once`).

        Raises:
            TypeError: arguments do not fit the task's function, or an option is of a wrong type.
            ValueError: an option is out of bounds.
            EncodeError: an argument cannot be serialized.
            OperationalError: the broker did not take it within the retry policy.
            StoreError: it has a chord, and the result store could not be reached or keeps none.
        """
        if self.conf.task_always_eager:
            return await self.apply(signature)
        connection = self._connection_of(signature.options)
        source = source_of(signature)
        if source is not None:
            stream = Stream(self, signature, connection, connection.store.reply_to or self.oid)
            result: Any = result_from_tuple(await stream.send(source), self)
        else:
            messages, result, chords = self.prepare(signature, connection.store.reply_to)
            for index, message in enumerate(messages if once else ()):
                message.once = f"{once}:{index}"
            if chords:  # known before the first part can return
                await (await connection.open_store()).begin_chords(chords)
            await self.publish(messages, signature.options, connection)
        parent = current.get()
        if parent is not None:
            parent.children.append(result.as_tuple())
        return result

    def prepare(
        self, signature: Signature[Any], reply_to: str = "", parent: Request | None = None
    ) -> Prepared:
        """The messages a signature stands for, and the handle of its result. Nothing is sent.

        `parent` is the run that it follows, which may send so much and no more (`max_sent_messages`); default the
        current one, whose own code may send any number.

        Raises:
            TypeError, EncodeError: as `send`, or it is too much.
            StoreError: it has a chord, and the result store keeps none.
        """
        conf = self.conf
        budget = None if parent is None else budget_of(parent, conf.max_sent_messages, conf.max_sent_bytes)
        if budget is not None:
            budget.require(signature)
        parent = parent or current.get()
        reply_to = reply_to or self.oid
        if type(signature) is Signature:  # nearly always
            [message] = self._built([signature], parent, reply_to, budget)
            headers = message.headers
            result: AsyncResult[Any] = AsyncResult(
                headers["id"], self, ignored=bool(headers["ignore_result"])
            )
            return Prepared([message], result, {})
        canvas = frozen(signature, reply_to)
        plan = lowered(canvas)
        if plan.chords:
            require_chords(self.store_config().url)
        messages = self._built(plan.signatures, parent, reply_to, budget)
        handle = result_from_tuple(result_tuple(canvas), self)
        ignored = {message.headers["id"] for message in messages if message.headers["ignore_result"]}
        if isinstance(handle, GroupResult) and ignored:
            for leaf in handle.leaves():
                leaf.ignored = leaf.id in ignored
        return Prepared(messages, handle, plan.chords)

    def _built(
        self,
        signatures: Sequence[Signature[Any]],
        parent: Request | None,
        reply_to: str,
        budget: Budget | None,
    ) -> list[Message]:
        messages = []
        left = None if budget is None else replace(budget)
        for signature in signatures:
            messages.append(self.encoded(signature, parent, reply_to))
            if left is not None:
                left.take(messages[-1])
        if budget is not None and left is not None:  # what was refused has used up nothing
            budget.messages, budget.size = left.messages, left.size
        return messages

    def encoded(self, signature: Signature[Any], parent: Request | None, reply_to: str) -> Message:
        """The message of a single task. Raises TypeError or EncodeError."""
        task = self.find_task(signature.task)
        if task is not None and task.typing:
            task.arguments.check(signature.args, signature.kwargs)
        if self._calls is None:
            self._calls = CallBuilder(self.conf, self.router, now)
        return self._calls.message(signature, task, parent, reply_to)

    async def publish(
        self, messages: Sequence[Message], options: Mapping[str, Any], connection: Connection
    ) -> None:
        """Hand messages to the broker, with the retry policy of the options or the settings."""
        await announce_before(messages, self.conf.security_secrets)
        publisher: Publisher = options.get("publisher") or options.get("producer") or connection.publisher
        policy = retry_policy(options, self.conf)

        remaining = list(messages)

        async def attempt() -> None:
            if connection.store.reply_to:
                await (await connection.open_store()).expect([m.correlation_id for m in remaining])
            try:
                await publisher.publish(remaining)
            except PublishErrors as errors:  # those accepted are not sent again
                remaining[:] = [remaining[index] for index in sorted(errors.failures)]
                raise

        await publish_with_retry(attempt, broker=publisher.url, policy=policy)  # type: ignore[arg-type]  # a RetryPolicy by content
        await self.published(messages, options.get("queue"))

    async def published(self, messages: Sequence[Message], queue: str | None = None) -> None:
        """Tell receivers of `after_task_publish`, and of events where they are asked for."""
        if signals.after_task_publish.receivers:
            await signals.announce(signals.after_task_publish, messages)
        if self.conf.task_send_sent_event:
            await self.events.sent(messages, queue)

    def _connection_of(self, options: Mapping[str, Any]) -> Connection:
        return options.get("connection") or self.shared_connection()

    def apply(self, signature: Signature[Any]) -> Awaitable[Any]:
        """Run a signature here and now, as a worker would; await it for the handle of its result."""
        check_values(signature.options)
        return run_eagerly(self, signature)

    def blocking(self, signature: Signature[Any]) -> SyncCalls[..., Any]:
        """The calling verbs of a signature for code without an event loop."""
        return SyncCalls(signature)

    # --- handles --------------------------------------------------------------------------------------------

    def signature(
        self,
        task: str | AnySignature,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[Any]:
        """A signature by the task's name, or from its wire form."""
        if not isinstance(task, str):
            return as_signature(task, self)
        check_options(options)
        return Signature(task, args, kwargs, options, immutable=immutable, app=self)

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:  # noqa: N802 - Celery's name
        """The handle of a task by its id."""
        return AsyncResult(task_id, self)

    async def GroupResult(self, group_id: str) -> GroupResult[Any] | None:  # noqa: N802 - Celery's name
        """The handle of a saved group by its id, None if it was not saved."""
        return await GroupResult.restore(group_id, self)

    def require_task(self, name: str) -> Task[Any, Any, Any]:
        """The task of that name.

        Raises:
            NotRegistered: there is none; names the one that was probably meant.
        """
        task = self.find_task(name)
        if task is None:
            raise NotRegistered(f"{name}.{near_match(name, self.tasks)}")
        return task

    if not TYPE_CHECKING:  # type checkers know what an app has

        def __getattr__(self, name: str) -> Any:
            """What Celery's app has and this has not is told with what to do instead."""
            raise AttributeError(no_attribute(type(self).__name__, name))

    def __repr__(self) -> str:
        return f"<TaskQ {self.main} {mask(self.conf.broker_url)}>"


def _file_of_caller() -> str | None:
    """The file of the module that makes an app; None at a prompt, and for apps that taskq makes itself."""
    frame = sys._getframe(2)  # noqa: SLF001 - its documented use
    name: str = frame.f_globals.get("__name__", "")
    path: str | None = frame.f_globals.get("__file__")
    return None if name.partition(".")[0] == "taskq" else path


class ConnectionPool:
    """`app.pool`: Celery's way to reuse a connection for many calls.

    A connection here carries any number of concurrent calls, so the pool has one per event loop.
    """

    def __init__(self, app: TaskQ) -> None:
        self._app = app

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """The loop's connection, opened. Raises OperationalError."""
        connection = self._app.shared_connection()
        await connection.open_broker()
        yield connection


class _Decorator:
    """The type of `app.task(...)`."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R, R]: ...
    def __call__(self, fun: Callable[..., Any], /) -> Any: ...


class _BoundDecorator:
    """The type of `app.task(bind=True, ...)`: the function's first parameter is the task."""

    @overload
    def __call__(
        self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R, R]: ...
    def __call__(self, fun: Callable[..., Any], /) -> Any: ...


def make_task(
    function: Callable[..., Any], app: TaskQ | None, main: str, options: Mapping[str, Any], *, bind: bool
) -> Task[Any, Any, Any]:
    """A task from a function and the options of the decorator, named as Celery names it."""
    chosen = dict(options)
    if chosen.get("schedule") is not None:
        from taskq.schedules.convert import as_schedule  # noqa: PLC0415 - a floor, loaded only when used

        chosen["schedule"] = as_schedule(chosen["schedule"])
    base: type[Task[Any, Any, Any]] = chosen.pop("base", None) or Task
    module = main if function.__module__ == "__main__" else function.__module__
    name = chosen.pop("name", None) or f"{module}.{function.__name__}"
    return base(function, app, name, chosen, bind=bind)


def current_app() -> TaskQ:
    """The app made last, or chosen by `app.set_current()`.

    Raises:
        ConfigError: there is no app yet.
    """
    return cast("TaskQ", registry.current())


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> _BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> _Decorator: ...
def shared_task(
    fun: Callable[..., Any] | None = None, /, *, bind: bool = False, **options: Unpack[TaskOptions]
) -> Any:
    """A task of every app, for libraries that know none; calls go through the current app. Options as `app.task`."""

    def register(function: Callable[..., Any]) -> Task[Any, Any, Any]:
        task = make_task(function, None, "__main__", options, bind=bind)
        tell_of_namesakes(registry.shared.get(task.name), task)
        registry.shared[task.name] = task
        return task

    return register if fun is None else register(fun)


def _tls(setting: bool | Mapping[str, Any] | None) -> Mapping[str, Any] | None:  # noqa: FBT001 - Celery's setting
    """The TLS options of a setting that may also be just True or False."""
    return setting if isinstance(setting, Mapping) else {} if setting else None
