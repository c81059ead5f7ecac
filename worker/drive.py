"""Stepping a coroutine so that a cancellation can become another exception.

`asyncio.Task.cancel` only knows CancelledError. A run with time limits is stepped by this: whoever ends it sets
`interrupt` and cancels its task; the coroutine then gets that exception at the await it is at, and may catch it.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Interruptible:
    """One coroutine and the exception it is to be ended with."""

    __slots__ = ("_error", "_task", "coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.coroutine = coroutine
        self._error: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` in the coroutine at its present await."""
        if self._task is not None and not self._task.done():
            self._error = error
            self._task.cancel()

    async def run(self) -> Any:
        """Await this instead of the coroutine."""
        self._task = asyncio.current_task()
        try:
            return await self._steps()
        finally:
            self._task = None

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
                step, value = self.coroutine.throw, self._instead(error)

    def _instead(self, error: BaseException) -> BaseException:
        """Our exception in place of the cancellation that brought it."""
        if self._error is None or not isinstance(error, asyncio.CancelledError):
            return error
        instead, self._error = self._error, None
        if self._task is not None:
            self._task.uncancel()
        return instead
