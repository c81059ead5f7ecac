"""The hooks of tasks, errbacks and the signals of runs: users' code, whose errors are logged and change nothing."""

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from taskq import signals, states
from taskq.errors import NotRegistered, Retry
from taskq.run.ends import EXPIRED, TERMINATED, Inadmissible, Revoked
from taskq.run.outcome import ErrbackCall, News
from taskq.signals import Signal
from taskq.task import Task
from taskq.wire.request import Request

logger = logging.getLogger("taskq.task")

#: What is told by hooks and a signal: the event, and the names of both.
_OF_EVENT: dict[str, tuple[str, Signal]] = {
    "succeeded": ("on_success", signals.task_success),
    "retried": ("on_retry", signals.task_retry),
    "failed": ("on_failure", signals.task_failure),
}
_OF_STATE = {
    states.SUCCESS: _OF_EVENT["succeeded"],
    states.RETRY: _OF_EVENT["retried"],
    states.FAILURE: _OF_EVENT["failed"],
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

    # --- before a run, and at the end of everything ---------------------------------------------------------

    async def around(self, signal: Signal, task: Task[Any, Any, Any], request: Request) -> None:
        """Before a run (task_prerun) and after all is done (task_postrun)."""
        run = {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}
        await signal.send(task, task=task, **run)

    async def before_start(self, task: Task[Any, Any, Any], request: Request) -> None:
        """The one hook that may fail: the run does not begin then."""
        if overrides(task, "before_start"):
            await self.call(task, task.before_start, request.id, request.args, request.kwargs)

    async def postrun(self, run: Any) -> None:
        """Tell receivers of task_postrun."""
        around = self.around(signals.task_postrun, run.task, run.request)
        await _unharmed("task_postrun of", run.task, run.request, around)

    # --- after a run ----------------------------------------------------------------------------------------

    def wants(self, news: News) -> bool:
        """Whether there is anybody to tell."""
        event = news.event
        if event in _OF_EVENT:
            task = news.about[0].task
            name, signal = _OF_EVENT[event]
            own = type(task) is not Task and (overrides(task, name) or overrides(task, "after_return"))
            return own or bool(signal.receivers)
        if event == "revoked":
            return bool(signals.task_revoked.receivers)
        return event == "dead" and bool(signals.task_rejected.receivers or signals.task_unknown.receivers)

    async def tell(self, news: News, sender: Any) -> None:
        """Call the hooks and receivers of an event; `sender` is the app, for messages that were no run."""
        about = news.about
        if news.event == "succeeded":
            await self.ended(about[0].task, about[0].request, states.SUCCESS, about[1], None)
        elif news.event == "failed":
            await self.ended(about[0].task, about[0].request, states.FAILURE, about[1], news.text)
        elif news.event == "retried":
            retry: Retry = about[1]
            await self.ended(about[0].task, about[0].request, states.RETRY, retry.exc, news.text)
        elif news.event == "revoked":
            await _tell_revoked(about[0].task, about[0].request, about[1])
        elif news.event == "dead":
            await _tell_dead(sender, about[0])

    async def ended(
        self, task: Task[Any, Any, Any], request: Request, state: str, value: Any, text: str | None
    ) -> None:
        """After a run that came to `state`; `value` is the return value or the exception, `text` its traceback."""
        name, signal = _OF_STATE[state]
        run = (request.id, request.args, request.kwargs)
        einfo = () if state == states.SUCCESS else (text,)
        if signal.receivers:
            await _unharmed(f"{signal.name} of", task, request, _announce(signal, task, request, value, text))
        if overrides(task, name):
            hook = self.call(task, getattr(task, name), value, *run, *einfo)
            await _unharmed(f"the hook {name} of", task, request, hook)
        if overrides(task, "after_return"):
            hook = self.call(task, task.after_return, state, value, *run, text)
            await _unharmed("the hook after_return of", task, request, hook)

    async def errback(self, task: Task[Any, Any, Any], call: ErrbackCall) -> None:
        """Call an errback of the new style (wire-format.md 5.5)."""
        run = functools.partial(task.run, **call.errback.kwargs)
        called = self.call(task, run, call.request, call.error, call.text, *call.errback.args)
        await _unharmed(f"the errback {task.name} of", call.request, call.request, called)

    async def call(self, task: Task[Any, Any, Any], hook: Callable[..., Any], *args: Any) -> Any:
        """Call one hook or errback where its task would run."""
        if task.is_async or inspect.iscoroutinefunction(hook):
            returned = hook(*args)
            return await returned if inspect.isawaitable(returned) else returned
        return await self._in_thread(functools.partial(hook, *args))


async def _unharmed(what: str, task: Any, request: Request, call: Awaitable[Any]) -> None:
    """Users' code at the end of a run can change nothing any more, whatever it raises.

    A cancellation is no exception to that: its own (it awaited something that was cancelled elsewhere) as little as
    that of a worker that is told to hurry.
    """
    try:
        await call
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:
        logger.exception("%s %s[%s] failed", what, getattr(task, "name", task), request.id)


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


async def _tell_revoked(task: Task[Any, Any, Any], request: Request, end: Revoked) -> None:
    ended = {"terminated": end.why == TERMINATED, "signum": end.signum, "expired": end.why == EXPIRED}
    await signals.task_revoked.send(task, request=request, **ended)


async def _tell_dead(sender: Any, message: Inadmissible) -> None:
    about = {"message": message.delivery.message, "exc": message.error}
    request = message.request
    if not isinstance(message.error, NotRegistered):
        await signals.task_rejected.send(sender, **about)
    elif request is not None:
        await signals.task_unknown.send(sender, name=request.task, id=request.id, **about)
