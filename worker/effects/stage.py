"""Work in batches that form by themselves: while one is on its way, the next piles up. No timer, no batch size."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

from taskq.seams.retry import Backoff

logger = logging.getLogger("taskq.worker")

T = TypeVar("T")

#: A batch that takes longer than this, in seconds, no longer keeps the next one waiting where several may be on
#: their way. It is far longer than a broker takes, and far shorter than a caller waits.
SLOW = 0.05


class Stage(Generic[T]):
    """One step of what is done with outcomes.

    Args:
        act: does the step for a batch.
        broken: told of one item, alone, that `act` failed for, with the error; ends the stage if it raises itself.
        failed: told of an error that ended the stage.
        width: how many batches may be on their way at once. More than one: a slow batch holds up nobody else.
    """

    def __init__(
        self,
        act: Callable[[list[T]], Awaitable[None]],
        broken: Callable[[T, Exception], None],
        failed: Callable[[BaseException], None],
        *,
        width: int = 1,
    ) -> None:
        self._act = act
        self._broken = broken
        self._failed = failed
        self._width = width
        self._loop = asyncio.get_running_loop()
        # What runs here belongs to no run: it must not see the variables of the one that put something in.
        self._context = contextvars.copy_context()
        self._pile: list[T] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def put(self, item: T) -> None:
        """Do the step for this, too."""
        self._pile.append(item)
        if not self._tasks:
            self._start()
        elif self._width > 1 and self._alarm is None:
            self._alarm = self._loop.call_later(SLOW, self._widen, context=self._context)

    def _start(self) -> None:
        task = self._loop.create_task(self._run(), context=self._context)
        self._tasks.add(task)

    def _widen(self) -> None:
        """What is on its way takes long: what has piled up goes beside it."""
        self._alarm = None
        if self._pile and len(self._tasks) < self._width:
            self._start()

    async def _run(self) -> None:
        try:
            while self._pile:
                batch, self._pile = self._pile, []
                await self._do(batch)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _do(self, batch: list[T]) -> None:
        """All at once; where that cannot be, each alone, so that one poisoned item ends nobody else."""
        try:
            await self._act(batch)
        except Exception as error:  # noqa: BLE001 - logged and dealt with where it is one item's
            if len(batch) > 1:
                for item in batch:
                    await self._do([item])
                return
            self._broken(batch[0], error)

    def close(self) -> None:
        """End what is on its way, where it is."""
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()


class Later(Generic[T]):
    """Items whose step is not possible now: it is tried again, beside all others, for as long as it takes.

    At each try the first one goes alone; when it comes through, all others follow at once. One that is itself what
    the other side cannot bear goes behind the others.

    Args:
        act: does the step; gives back the items for which it is still not possible.
        broken, failed: as for a stage.
    """

    def __init__(
        self,
        act: Callable[[list[T]], Awaitable[list[T]]],
        broken: Callable[[T, Exception], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._act = act
        self._broken = broken
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._items: list[T] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, items: list[T]) -> None:
        """Try again for these."""
        self._items += items
        if self._items and self._task is None:
            self._task = self._loop.create_task(self._run(), context=self._context)

    async def _run(self) -> None:
        pauses = Backoff()
        try:
            while self._items:
                await asyncio.sleep(pauses.next())
                first = self._items.pop(0)
                stuck = await self._try([first])
                if not stuck:
                    pauses.reset()
                    rest, self._items = self._items, []
                    stuck = await self._try(rest)
                self._items += stuck
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._task = None

    async def _try(self, items: list[T]) -> list[T]:
        if not items:
            return []
        try:
            return await self._act(items)
        except Exception as error:  # noqa: BLE001 - logged and dealt with where it is one item's
            if len(items) > 1:
                return [left for item in items for left in await self._try([item])]
            self._broken(items[0], error)
            return []

    def close(self) -> None:
        """Try no longer."""
        if self._task is not None:
            self._task.cancel()
