"""A coroutine in a task of its own that can be ended with an exception of our choice.

`asyncio.Task.cancel` only knows CancelledError. Here the coroutine is stepped: the cancellation that `interrupt`
asks for is replaced on its way in, so that it arrives as that exception at the await the coroutine is at.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any

from taskq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from taskq.worker.pools.carried import Carried


class _SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """Inside, it is a cancellation, too: `TaskGroup`, `wait_for` and anyio clean up only for that."""


class _HardLimit(TimeLimitExceeded, asyncio.CancelledError):
    """The same for the hard limit."""


_INSIDE: dict[type[BaseException], type[BaseException]] = {
    SoftTimeLimitExceeded: _SoftLimit,
    TimeLimitExceeded: _HardLimit,
}


class CoroutineRun:
    """One coroutine, begun. `done` is its task, of that name: it ends with the coroutine's value or exception."""

    __slots__ = ("_error", "_given_up", "coroutine", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self.coroutine = coroutine
        self._error: BaseException | None = None
        self._given_up = False
        self.done: asyncio.Task[Any] = asyncio.get_running_loop().create_task(self._run(), name=name)

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the coroutine at its present await. It may catch it."""
        if not self.done.done():
            self._error = _INSIDE[error]()
            self.done.cancel()

    def abandon(self) -> None:
        """Stop waiting for a coroutine that does not end: it is closed where it is, and its end no longer matters."""
        self._given_up = True
        self.done.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.done.cancel()

    async def _run(self) -> Any:
        try:
            return await self._steps()
        except (SystemExit, KeyboardInterrupt) as error:  # out of a task of its own they would end the loop
            raise Carried(error) from error
        except (_SoftLimit, _HardLimit, BaseExceptionGroup) as error:
            outside = _outside(error)
            if outside is None:
                raise
            raise outside().with_traceback(error.__traceback__) from None

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, Any]:
        step: Any = self.coroutine.send
        value: Any = None
        while True:
            try:
                awaited = step(value)
            except StopIteration as stop:
                return stop.value
            try:
                value = yield awaited
                step = self.coroutine.send
            except BaseException as error:  # noqa: BLE001 - all of them belong to the coroutine
                step, value = self.coroutine.throw, error
            if self._given_up:
                with suppress(RuntimeError):  # it awaits again instead of ending
                    self.coroutine.close()
                return None
            if self._error is not None:
                # In place of the cancellation that brought it, or that what it awaited has swallowed.
                step, value, self._error = self.coroutine.throw, self._error, None
                self.done.uncancel()


def _outside(error: BaseException) -> type[BaseException] | None:
    """The limit that an exception stands for, also where a TaskGroup has wrapped it and nothing else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return next((limit for limit, inside in _INSIDE.items() if isinstance(error, inside)), None)
