"""The hooks of tasks and the signals of ended runs: their exceptions are logged and change nothing."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from taskq import signals, states
from taskq.signals import Signal
from taskq.task import Task
from taskq.worker.job import Job
from taskq.worker.threads import ThreadPool

logger = logging.getLogger("taskq.worker")

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
    """Calls the hooks: those of a plain task in a thread like the task, coroutines and others on the loop."""

    def __init__(self, threads: ThreadPool) -> None:
        self._threads = threads

    async def ended(self, job: Job, state: str, value: Any, text: str | None) -> None:
        """After a run that came to `state`; `value` is the return value or the exception, `text` its traceback."""
        name, signal = _OF_STATE[state]
        task = job.task
        if not (signal.receivers or overrides(task, name) or overrides(task, "after_return")):
            return
        try:
            await self._announce(signal, job, state, value, text)
            await self._call_both(job, name, state, value, text)
        except Exception:
            logger.exception("a hook of %s[%s] failed", task.name, job.request.id)

    async def _announce(self, signal: Signal, job: Job, state: str, value: Any, text: str | None) -> None:
        """Celery's arguments of each signal."""
        request = job.request
        if state == states.SUCCESS:
            await signal.send(job.task, result=value)
        elif state == states.RETRY:
            await signal.send(job.task, request=request, reason=value, einfo=text)
        else:
            run = {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}
            await signal.send(job.task, exception=value, einfo=text, traceback=text, **run)

    async def _call_both(self, job: Job, name: str, state: str, value: Any, text: str | None) -> None:
        task, request = job.task, job.request
        run = (request.id, request.args, request.kwargs)
        einfo = () if state == states.SUCCESS else (text,)
        await self.call(task, getattr(task, name), value, *run, *einfo)
        await self.call(task, task.after_return, state, value, *run, text)

    async def call(self, task: Task[Any, Any, Any], hook: Callable[..., Any], *args: Any) -> Any:
        """Call one hook or errback where its task would run."""
        if task.is_async or inspect.iscoroutinefunction(hook):
            returned = hook(*args)
            return await returned if inspect.isawaitable(returned) else returned
        return await self._threads.submit(functools.partial(hook, *args)).done
