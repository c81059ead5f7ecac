"""The caller's handles: what a call gives back.

One rule: what has parentheses looks now and is awaited; what has none shows what was last seen.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from taskq import states
from taskq.broker import Broker
from taskq.errors import ResultTimeout
from taskq.failures import decode_exception
from taskq.store import ResultStore, TaskResult

R = TypeVar("R")

#: Called with the mapping of each state: task_id, status, result, traceback, children.
OnMessage = Callable[[dict[str, Any]], Any]


class Backend(Protocol):
    """The app, as far as result handles know it."""

    async def open_store(self) -> ResultStore:
        """The result store of the running loop. Raises StoreError."""
        ...

    async def open_broker(self) -> Broker:
        """The broker of the running loop. Raises OperationalError."""
        ...


class AsyncResult(Generic[R]):
    """The handle of one task.

    `await result` waits for the task and gives its return value, or raises its exception.
    `status`, `result`, `traceback`, `children` show what was last seen: `await result.refresh()` looks again.

    Attributes:
        id: the task id.
        parent: the handle of the task before it in a chain, if any.
        ignored: the call asked for no result: waiting for it gives None at once.
    """

    __slots__ = ("_backend", "_seen", "id", "ignored", "parent")

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        backend: Backend,
        parent: "AsyncResult[Any] | GroupResult[Any] | None" = None,
        *,
        ignored: bool = False,
    ) -> None:
        self.id = id
        self.parent = parent
        self.ignored = ignored
        self._backend = backend
        self._seen: TaskResult | None = None

    def see(self, state: TaskResult) -> None:
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
            timeout: seconds to wait; None = as long as it takes.
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
        if not self.ignored and (self.state not in states.READY or on_message is not None):
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
        async with contextlib.aclosing(self.events(interval=interval)) as events:
            async for event in events:
                if on_message is not None:
                    returned = on_message(event.payload())
                    if inspect.isawaitable(returned):
                        await returned

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

    # --- acting ---------------------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Remove the stored result. Raises StoreError."""
        store = await self._backend.open_store()
        await store.forget([self.id])
        self._seen = None

    async def revoke(self, *, expires: float = 10800.0) -> None:
        """Have the task not run: workers mark it REVOKED when its turn comes.

        Args:
            expires: how long the broker remembers, in seconds (3 hours, as Celery's workers do).

        Raises:
            OperationalError: the broker could not be reached.
        """
        broker = await self._backend.open_broker()
        await broker.revoke([self.id], time.time() + expires)

    def as_tuple(self) -> list[Any]:
        """The wire form (celery-protocol.md 4.5)."""
        return [[self.id, self.parent.as_tuple() if self.parent else None], None]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id} {self.state}>"


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


class GroupResult(Generic[R]):
    """The handles of a group, in order. `await group_result` gives the list of values.

    Attributes:
        id: the group id.
        results: the members' handles.
    """

    __slots__ = ("_backend", "id", "parent", "results")

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        results: Sequence["AsyncResult[R] | GroupResult[R]"],
        backend: Backend,
        parent: "AsyncResult[Any] | GroupResult[Any] | None" = None,
    ) -> None:
        self.id = id
        self.results = list(results)
        self.parent = parent
        self._backend = backend

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
        """Wait for all members; their values in the order of the group.

        Arguments and errors as for `AsyncResult.get`; with `propagate` the first failure is raised at once.
        """
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(
                        member.get(propagate=propagate, on_message=on_message, interval=interval)
                    )
                    for member in self.results
                ]
        except TimeoutError:
            raise ResultTimeout(f"group {self.id} had not ended after {timeout} s") from None
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        return [task.result() for task in waiting]  # type: ignore[misc]  # nested groups give nested lists

    async def join(self, timeout: float | None = None, *, propagate: bool = True) -> list[R]:  # noqa: ASYNC109 - Celery's
        """The same as `get`."""
        return await self.get(timeout, propagate=propagate)

    async def refresh(self) -> Self:
        """Look at the stored states of all members now. Raises StoreError."""
        leaves = list(self.leaves())
        store = await self._backend.open_store()
        for leaf, found in zip(leaves, await store.load([leaf.id for leaf in leaves]), strict=True):
            if found is not None:
                leaf.see(found)
        return self

    async def completed_count(self) -> int:
        """How many members have ended well."""
        await self.refresh()
        return sum(leaf.state == states.SUCCESS for leaf in self.leaves())

    async def ready(self) -> bool:
        """Have all members ended?"""
        await self.refresh()
        return all(leaf.state in states.READY for leaf in self.leaves())

    async def successful(self) -> bool:
        """Have all members ended well?"""
        await self.refresh()
        return all(leaf.state == states.SUCCESS for leaf in self.leaves())

    async def failed(self) -> bool:
        """Has any member failed?"""
        await self.refresh()
        return any(leaf.state == states.FAILURE for leaf in self.leaves())

    async def forget(self) -> None:
        """Remove the stored results of all members. Raises StoreError."""
        store = await self._backend.open_store()
        await store.forget([leaf.id for leaf in self.leaves()])

    async def revoke(self, *, expires: float = 10800.0) -> None:
        """Have no member run that has not started; see `AsyncResult.revoke`."""
        broker = await self._backend.open_broker()
        await broker.revoke([leaf.id for leaf in self.leaves()], time.time() + expires)

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        """The single tasks of the group, those of nested groups included."""
        for member in self.results:
            if isinstance(member, GroupResult):
                yield from member.leaves()
            else:
                yield member

    def as_tuple(self) -> list[Any]:
        """The wire form (celery-protocol.md 4.5)."""
        parent = self.parent.as_tuple() if self.parent else None
        return [[self.id, parent], [member.as_tuple() for member in self.results]]

    def __iter__(self) -> Iterator["AsyncResult[R] | GroupResult[R]"]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> "AsyncResult[R] | GroupResult[R]":
        return self.results[index]

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self.results)}>"


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def result_from_tuple(data: Any, backend: Backend) -> "AsyncResult[Any] | GroupResult[Any]":
    """The handle of a wire tuple (celery-protocol.md 4.5)."""
    (id_, parent_data), nodes = data
    parent = None if parent_data is None else result_from_tuple(parent_data, backend)
    if nodes is None:
        return AsyncResult(id_, backend, parent)
    return GroupResult(id_, [result_from_tuple(node, backend) for node in nodes], backend, parent)
