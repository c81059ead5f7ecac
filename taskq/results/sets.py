"""Several handles of results, looked at together."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from taskq import states
from taskq.errors import ResultTimeout
from taskq.results.tree import look
from taskq.seams.broker import REVOKED_FOR
from taskq.seams.store import ResultStore

if TYPE_CHECKING:
    from taskq.results.handles import AsyncResult, GroupResult

R = TypeVar("R")

#: Called with the mapping of each state: task_id, status, result, traceback, children.
OnMessage = Callable[[dict[str, Any]], Any]


class Revoking(Protocol):
    """Remote control, as far as result handles know it."""

    async def revoke(self, task_id: Sequence[str], *, terminate: bool, signal: str, expires: float) -> Any:
        """See `Control.revoke`."""
        ...


class Backend(Protocol):
    """The app, as far as result handles know it."""

    @property
    def control(self) -> Revoking:
        """Remote control of workers."""
        ...

    async def open_store(self) -> ResultStore:
        """The result store of the running loop. Raises StoreError."""
        ...


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
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(
                        member.get(propagate=propagate, on_message=on_message, interval=interval)
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


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
