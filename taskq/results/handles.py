"""The caller's handles: what a call gives back.

One rule: what has parentheses looks now and is awaited; what has none shows what was last seen.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from typing import Any, Generic, Self, TypeAlias, TypeVar

from taskq import states
from taskq.canvas.graph import Graph
from taskq.errors import ResultTimeout
from taskq.registry import current
from taskq.results.tree import look, result_graph, walk
from taskq.seams.app import App
from taskq.seams.broker import REVOKED_FOR
from taskq.wire.exceptions import decode_exception
from taskq.wire.result import TaskResult

R = TypeVar("R")

#: Called with the mapping of each state: task_id, status, result, traceback, children.
OnMessage = Callable[[dict[str, Any]], Any]


class AsyncResult(Generic[R]):
    """The handle of one task.

    `await result` waits for the task and gives its return value, or raises its exception.
    `status`, `result`, `traceback`, `children` show what was last seen: `await result.refresh()` looks again.

    `AsyncResult(task_id, app=app)` is the same as `app.AsyncResult(task_id)`; without an app it is the current one's.

    Attributes:
        id: the task id.
        parent: the handle of the task before it in a chain, if any.
        ignored: the call asked for no result: waiting for it gives None at once.
    """

    __slots__ = ("_backend", "_seen", "id", "ignored", "parent")

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        app: App | None = None,
        parent: "AsyncResult[Any] | GroupResult[Any] | None" = None,
        *,
        ignored: bool = False,
    ) -> None:
        self.id = id
        self.parent = parent
        self.ignored = ignored
        self._backend: App = app or current()
        self._seen: TaskResult | None = None

    @property
    def backend(self) -> App:
        """The app whose result store it looks into."""
        return self._backend

    def see(self, state: TaskResult | None) -> None:
        """Take note of a state found elsewhere."""
        self._seen = state

    @property
    def seen(self) -> TaskResult | None:
        """The whole record last seen, None if nothing was."""
        return self._seen

    # --- what was last seen ---------------------------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """The same as `id`."""
        return self.id

    @property
    def state(self) -> str:
        """The state last seen: one of taskq.states, or a custom one. PENDING if nothing was seen."""
        return self._seen.state if self._seen else states.PENDING

    @property
    def status(self) -> str:
        """The same as `state`."""
        return self.state

    @property
    def result(self) -> Any:
        """What goes with the state last seen: the return value, the exception, or the meta of a custom state."""
        if self._seen is None:
            return None
        if self._seen.state in states.EXCEPTION:
            return None if self._seen.value is None else decode_exception(self._seen.value)
        return self._seen.value

    @property
    def info(self) -> Any:
        """The same as `result`."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback as text, of the state last seen."""
        return self._seen.traceback if self._seen else None

    @property
    def date_done(self) -> str | None:
        """When the final state was reached (ISO 8601), as last seen."""
        return self._seen.date_done if self._seen else None

    @property
    def children(self) -> "list[AsyncResult[Any] | GroupResult[Any]]":
        """Handles of the tasks this one sent (callbacks, next step, sub-tasks), as last seen."""
        tuples = (self._seen.children if self._seen else None) or ()
        return [result_from_tuple(item, self._backend) for item in tuples]

    def leaves(self) -> "Iterator[AsyncResult[Any]]":
        """The single tasks it stands for: itself."""
        yield self

    # --- looking --------------------------------------------------------------------------------------------

    async def refresh(self) -> Self:
        """Look at the stored state now.

        Raises:
            StoreError: the result store could not be reached.
        """
        store = await self._backend.open_store()
        [found] = await store.load([self.id])
        if found is not None:
            self._seen = found
        return self

    async def ready(self) -> bool:
        """Has the task ended, one way or another?"""
        if self.state not in states.READY:
            await self.refresh()
        return self.state in states.READY

    async def successful(self) -> bool:
        """Has it ended well?"""
        return await self.ready() and self.state == states.SUCCESS

    async def failed(self) -> bool:
        """Has it failed?"""
        return await self.ready() and self.state == states.FAILURE

    # --- waiting --------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, R]:
        return self.get().__await__()

    async def get(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - Celery's signature
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
        interval: float | None = None,
    ) -> R:
        """Wait for the task and return its value.

        Args:
            timeout: seconds to wait; None = as long as it takes, 0 = look once.
            propagate: raise the task's exception; False returns the exception instead.
            on_message: called (and awaited, if it is a coroutine function) with the mapping of every state
                from now on, in order: task_id, status, result, traceback, children.
            interval: look into the store again after so many seconds without news, for a store that may lose
                a notification; None = trust the notifications.

        Raises:
            ResultTimeout: the task had not ended in time; it goes on all the same.
            Exception: what the task raised; TaskRevokedError if it was revoked or has expired.
            StoreError: the result store could not be reached.
        """
        if self.ignored or (self.state in states.READY and on_message is None):
            return self._outcome(propagate)
        if timeout is None:
            await self._follow(on_message, interval)
        elif timeout <= 0:
            if not await self.ready():
                raise ResultTimeout(f"task {self.id} was {self.state} just now")
            await self._follow(on_message, interval)
        else:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    await self._follow(on_message, interval)
            except TimeoutError:
                if not limit.expired():  # it came out of on_message
                    raise
                raise ResultTimeout(f"task {self.id} was {self.state} after {timeout} s") from None
        return self._outcome(propagate)

    async def _follow(self, on_message: OnMessage | None, interval: float | None) -> None:
        if self._seen is not None and self.state in states.READY:  # and on_message wants to hear of it
            await _tell(on_message, self._seen)
            return
        if on_message is None and interval is None:  # nearly always: without the layers of the rest
            store = await self._backend.open_store()
            async with contextlib.aclosing(store.watch(self.id)) as watched:
                async for self._seen in watched:
                    pass
            return
        async with contextlib.aclosing(self.events(interval=interval)) as events:
            async for event in events:
                await _tell(on_message, event)

    def _outcome(self, propagate: bool) -> R:  # noqa: FBT001 - passed on from `get`
        value = self.result
        if propagate and self.state in states.PROPAGATE and isinstance(value, BaseException):
            if self.traceback:
                value.add_note(f"Raised in the worker:\n{self.traceback}")
            raise value
        outcome: R = value
        return outcome

    async def events(self, *, interval: float | None = None) -> AsyncGenerator[TaskResult, None]:
        """Every state of the task from now on, in order, the present one first; ends with the final one.

            async for event in result.events():
                print(event.state, event.value)

        Raises:
            StoreError: the result store could not be reached.
        """
        store = await self._backend.open_store()
        async with contextlib.aclosing(store.watch(self.id)) as watched:
            events = watched if interval is None else _with_looks(watched, self, interval)
            async with contextlib.aclosing(events):
                async for event in events:
                    self._seen = event
                    yield event

    # --- what came of it ------------------------------------------------------------------------------------

    async def iterdeps(
        self, *, intermediate: bool = False
    ) -> "AsyncGenerator[tuple[AnyResult | None, AnyResult], None]":
        """This result and all that its task has sent, each with the one it comes from (None for this).

        Args:
            intermediate: go on past tasks that have not ended yet.

        Raises:
            IncompleteStream: a task has not ended.
            StoreError: the result store could not be reached.
        """
        store = await self._backend.open_store()
        async with contextlib.aclosing(walk(self, store, intermediate=intermediate)) as steps:
            async for step in steps:
                yield step

    async def collect(self, *, intermediate: bool = False) -> "AsyncGenerator[tuple[AnyResult, Any], None]":
        """This result and all that its task has sent, each with its value; see `iterdeps`.

            async for result, value in result.collect():
                print(result.id, value)

        With `intermediate` the value of a task that has not ended is what was last seen of it.
        """
        async with contextlib.aclosing(self.iterdeps(intermediate=intermediate)) as steps:
            async for _, handle in steps:
                ended = all(leaf.state in states.READY for leaf in handle.leaves())
                value = await handle.get() if ended else [leaf.result for leaf in handle.leaves()]
                yield handle, value if ended or isinstance(handle, GroupResult) else value[0]

    async def get_leaf(self) -> Any:
        """The value of the last of the tasks that this one has led to; see `iterdeps`."""
        value: Any = None
        async with contextlib.aclosing(self.collect()) as steps:
            async for _, found in steps:
                value = found
        return value

    async def graph(self, *, intermediate: bool = True) -> Graph:
        """This task and all it has sent as a graph with the states: `print(await result.graph())`."""
        return await result_graph(self, await self._backend.open_store(), intermediate=intermediate)

    # --- acting ---------------------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Remove the stored result. Raises StoreError."""
        store = await self._backend.open_store()
        await store.forget([self.id])
        self.see(None)

    async def revoke(
        self, *, terminate: bool = False, signal: str = "SIGTERM", expires: float = REVOKED_FOR
    ) -> None:
        """Have the task not run: it ends as REVOKED; see `Control.revoke` for when.

        Args:
            terminate: end it also if it runs.
            signal: with which a task that runs in a process of its own is ended.
            expires: how long the broker remembers, in seconds (30 days).

        Raises:
            OperationalError: the broker could not be reached.
        """
        await self._backend.control.revoke([self.id], terminate=terminate, signal=signal, expires=expires)

    def as_tuple(self) -> list[Any]:
        """The wire form (wire-format.md 4.5), with the nearest of its parents (`LINEAGE`)."""
        return _as_tuple(self)

    __json__ = as_tuple  # a task may return handles

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id} {self.state}>"


async def _tell(on_message: OnMessage | None, event: TaskResult) -> None:
    if on_message is not None:
        returned = on_message(event.payload())
        if inspect.isawaitable(returned):
            await returned


async def _with_looks(
    watched: AsyncGenerator[TaskResult, None], result: AsyncResult[Any], interval: float
) -> AsyncGenerator[TaskResult, None]:
    """The watched states, and after `interval` seconds of silence a look: a final state found so ends it."""
    pending: asyncio.Task[TaskResult] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(watched))
            done, _ = await asyncio.wait([pending], timeout=interval)
            if done:
                try:
                    event = pending.result()
                except StopAsyncIteration:
                    return
                pending = None
                yield event
                continue
            if await result.ready() and result.seen is not None:
                yield result.seen
                return
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait([pending])


class ResultSet(Generic[R]):
    """Handles of any tasks, looked at together: `await ResultSet([first, second])` gives the list of their values.

    Attributes:
        results: the handles, in order.
    """

    def __init__(self, results: "Iterable[AsyncResult[R] | GroupResult[R]]") -> None:
        self.results: list[AsyncResult[R] | GroupResult[R]] = []
        self.update(results)

    # --- the set --------------------------------------------------------------------------------------------

    def add(self, result: "AsyncResult[R] | GroupResult[R]") -> None:
        """Take in a handle, unless it is there already."""
        self.update([result])

    def update(self, results: "Iterable[AsyncResult[R] | GroupResult[R]]") -> None:
        """Take in several, each once."""
        self.results = list(dict.fromkeys([*self.results, *results]))

    def remove(self, result: "AsyncResult[R] | GroupResult[R]") -> None:
        """Take out a handle. Raises KeyError if it is not there."""
        if result not in self.results:
            raise KeyError(result)
        self.results.remove(result)

    def discard(self, result: "AsyncResult[R] | GroupResult[R]") -> None:
        """Take out a handle if it is there."""
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        """Take out all."""
        self.results.clear()

    def leaves(self) -> "Iterator[AsyncResult[Any]]":
        """The single tasks, those of groups inside included."""
        for member in self.results:
            yield from member.leaves()

    # --- waiting --------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.get().__await__()

    async def get(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - Celery's signature
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
        interval: float | None = None,
    ) -> list[R]:
        """Wait for all members; their values in order.

        Arguments and errors as for `AsyncResult.get`; with `propagate` the first failure is raised at once.
        """
        once = timeout is not None and timeout <= 0
        if once:
            await self.refresh()
        try:
            async with asyncio.timeout(None if once else timeout), asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(
                        member.get(
                            0 if once else None, propagate=propagate, on_message=on_message, interval=interval
                        )
                    )
                    for member in self.results
                ]
        except TimeoutError:
            raise ResultTimeout(f"{self!r} had not ended after {timeout} s") from None
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        return [task.result() for task in waiting]  # type: ignore[misc]  # nested groups give nested lists

    async def join(self, timeout: float | None = None, *, propagate: bool = True) -> list[R]:  # noqa: ASYNC109 - Celery's
        """The same as `get`."""
        return await self.get(timeout, propagate=propagate)

    async def as_completed(self) -> "AsyncGenerator[AsyncResult[R], None]":
        """The single tasks as they end, failed ones included: what each shows is its end.

            async for result in group_result.as_completed():
                print(result.id, result.state, result.result)

        Raises:
            StoreError: the result store could not be reached.
        """
        waiting: dict[asyncio.Future[Any], AsyncResult[R]] = {
            asyncio.ensure_future(leaf.get(propagate=False)): leaf for leaf in self.leaves()
        }
        pending = set(waiting)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield waiting[future]
        finally:
            for future in pending:
                future.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    # --- looking --------------------------------------------------------------------------------------------

    async def refresh(self) -> Self:
        """Look at the stored states of all members now. Raises StoreError."""
        leaves = list(self.leaves())
        if leaves:
            await look(await leaves[0].backend.open_store(), leaves)
        return self

    async def completed_count(self) -> int:
        """How many tasks have ended well."""
        await self.refresh()
        return sum(leaf.state == states.SUCCESS for leaf in self.leaves())

    async def ready(self) -> bool:
        """Have all tasks ended?"""
        await self.refresh()
        return all(leaf.state in states.READY for leaf in self.leaves())

    async def waiting(self) -> bool:
        """Is there a task that has not ended?"""
        return not await self.ready()

    async def successful(self) -> bool:
        """Have all tasks ended well?"""
        await self.refresh()
        return all(leaf.state == states.SUCCESS for leaf in self.leaves())

    async def failed(self) -> bool:
        """Has any task failed?"""
        await self.refresh()
        return any(leaf.state == states.FAILURE for leaf in self.leaves())

    # --- acting ---------------------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Remove the stored results of all tasks. Raises StoreError."""
        leaves = list(self.leaves())
        if leaves:
            store = await leaves[0].backend.open_store()
            await store.forget([leaf.id for leaf in leaves])
            for leaf in leaves:
                leaf.see(None)

    async def revoke(
        self, *, terminate: bool = False, signal: str = "SIGTERM", expires: float = REVOKED_FOR
    ) -> None:
        """Have no task run that has not started, with `terminate` none at all; see `AsyncResult.revoke`."""
        leaves = list(self.leaves())
        if leaves:
            ids = [leaf.id for leaf in leaves]
            control = leaves[0].backend.control
            await control.revoke(ids, terminate=terminate, signal=signal, expires=expires)

    def __iter__(self) -> Iterator["AsyncResult[R] | GroupResult[R]"]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> "AsyncResult[R] | GroupResult[R]":
        return self.results[index]

    def __repr__(self) -> str:
        return f"<ResultSet of {len(self.results)}>"


class GroupResult(ResultSet[R]):
    """The handles of a group, in order. `await group_result` gives the list of values.

    Attributes:
        id: the group id.
        results: the members' handles.
        parent: the handle of what came before it in a chain, if any.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        results: "Iterable[AsyncResult[R] | GroupResult[R]]",
        backend: App,
        parent: "AsyncResult[Any] | GroupResult[Any] | None" = None,
    ) -> None:
        super().__init__(())
        self.id = id
        self.results = list(results)
        self.parent = parent
        self._backend = backend

    @property
    def children(self) -> "list[AsyncResult[R] | GroupResult[R]]":
        """The members."""
        return self.results

    async def graph(self, *, intermediate: bool = True) -> Graph:
        """The members and all they have sent as a graph with the states."""
        return await result_graph(self, await self._backend.open_store(), intermediate=intermediate)

    async def save(self) -> None:
        """Keep the group under its id, for `app.GroupResult(id)` in another process. Raises StoreError."""
        await (await self._backend.open_store()).save_group(self.id, {"result": self.as_tuple()})

    async def delete(self) -> None:
        """Remove what `save` kept. Raises StoreError."""
        await (await self._backend.open_store()).forget_group(self.id)

    @classmethod
    async def restore(cls, id: str, app: App) -> "GroupResult[Any] | None":  # noqa: A002 - Celery's name
        """The handle of a saved group, None if there is none of that id. Raises StoreError."""
        data = await (await app.open_store()).load_group(id)
        restored = None if data is None else result_from_tuple(data["result"], app)
        return restored if isinstance(restored, GroupResult) else None

    def as_tuple(self) -> list[Any]:
        """The wire form (wire-format.md 4.5), with the nearest of its parents (`LINEAGE`)."""
        return _as_tuple(self)

    __json__ = as_tuple  # a task may return handles

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and other.id == self.id and other.results == self.results

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self.results)}>"


#: So many parents of a handle go into its wire form: JSON cannot nest without end, and a long chain has many.
LINEAGE = 100
AnyResult: TypeAlias = AsyncResult[Any] | GroupResult[Any]


def _as_tuple(handle: AnyResult) -> list[Any]:
    lineage: list[AnyResult] = [handle]
    while len(lineage) <= LINEAGE and (parent := lineage[-1].parent) is not None:
        lineage.append(parent)
    made: list[Any] | None = None
    for one in reversed(lineage):
        nodes = [member.as_tuple() for member in one.results] if isinstance(one, GroupResult) else None
        made = [[one.id, made], nodes]
    return made or []


def result_from_tuple(data: Any, backend: App) -> "AsyncResult[Any] | GroupResult[Any]":
    """The handle of a wire tuple (wire-format.md 4.5)."""
    lineage: list[tuple[Any, Any]] = []
    while data is not None:
        (id_, data), nodes = data
        lineage.append((id_, nodes))
    made: Any = None
    for id_, nodes in reversed(lineage):
        if nodes is None:
            made = AsyncResult(id_, backend, made)
        else:
            made = GroupResult(id_, [result_from_tuple(node, backend) for node in nodes], backend, made)
    handle: AnyResult = made
    return handle


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
