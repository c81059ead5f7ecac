"""The hooks of tasks and the signals of ended runs: their exceptions are logged and change nothing."""

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from taskq import signals, states
from taskq.signals import Signal
from taskq.task import Task
from taskq.wire.request import Request

logger = logging.getLogger("taskq.task")

#: The hook and the signal of a state.
_OF_STATE: dict[str, tuple[str, Signal]] = {
    states.SUCCESS: ("on_success", signals.task_success),
    states.RETRY: ("on_retry", signals.task_retry),
    states.FAILURE: ("on_failure", signals.task_failure),
}


def overrides(task: Task[Any, Any, Any], hook: str) -> bool:
    """Whether a task's class has a hook of its own."""
    return getattr(type(task), hook) is not getattr(Task, hook)


class Hooks:
    """Calls the hooks: those of a plain task in a thread like the task, coroutines and others on the loop.

    `in_thread` has a function called in a thread, in the present context.
    """

    def __init__(self, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._in_thread = in_thread

    async def around(self, signal: Signal, task: Task[Any, Any, Any], request: Request) -> None:
        """Before a run (task_prerun) and after all is done (task_postrun)."""
        run = {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}
        await signal.send(task, task=task, **run)

    async def before_start(self, task: Task[Any, Any, Any], request: Request) -> None:
        """The one hook that may fail: the run does not begin then."""
        if overrides(task, "before_start"):
            await self.call(task, task.before_start, request.id, request.args, request.kwargs)

    async def ended(
        self, task: Task[Any, Any, Any], request: Request, state: str, value: Any, text: str | None
    ) -> None:
        """After a run that came to `state`; `value` is the return value or the exception, `text` its traceback."""
        name, signal = _OF_STATE[state]
        if not (signal.receivers or overrides(task, name) or overrides(task, "after_return")):
            return
        run = (request.id, request.args, request.kwargs)
        einfo = () if state == states.SUCCESS else (text,)
        try:
            await _announce(signal, task, request, value, text)
            await self.call(task, getattr(task, name), value, *run, *einfo)
            await self.call(task, task.after_return, state, value, *run, text)
        except Exception:
            logger.exception("a hook of %s[%s] failed", task.name, request.id)

    async def call(self, task: Task[Any, Any, Any], hook: Callable[..., Any], *args: Any) -> Any:
        """Call one hook or errback where its task would run."""
        if task.is_async or inspect.iscoroutinefunction(hook):
            returned = hook(*args)
            return await returned if inspect.isawaitable(returned) else returned
        return await self._in_thread(functools.partial(hook, *args))


async def _announce(
    signal: Signal, task: Task[Any, Any, Any], request: Request, value: Any, text: str | None
) -> None:
    """Celery's arguments of each signal."""
    if signal is signals.task_success:
        await signal.send(task, result=value)
    elif signal is signals.task_retry:
        await signal.send(task, request=request, reason=value, einfo=text)
    else:
        run = {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}
        await signal.send(task, exception=value, einfo=text, traceback=text, **run)
