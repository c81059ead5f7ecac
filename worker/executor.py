"""One run: from a job to its outcome, in named steps."""

import asyncio
import contextvars
import functools
import inspect
import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from taskq import signals, states
from taskq.app import TaskQ
from taskq.errors import EncodeError, Ignore, Reject, Retry, TaskRevokedError, TimeLimitExceeded
from taskq.failures import encode_exception
from taskq.message import Message
from taskq.request import Request, current
from taskq.signature import Signature
from taskq.store import TaskResult
from taskq.sync import worker_loop
from taskq.task import Task
from taskq.worker.followups import after_failure, after_success, failed_chain, retry_due, retry_message
from taskq.worker.job import Job
from taskq.worker.limits import Limits
from taskq.worker.outcome import Outcome, Settle
from taskq.worker.runlog import RunLog
from taskq.worker.threads import ThreadPool

logger = logging.getLogger(__name__)

#: Reasons of Celery's own exceptions (celery-protocol.md 4.4).
EXPIRED, REVOKED = "expired", "revoked"


@dataclass(slots=True)
class Effects:
    """What a run may do to the world before it ends: the completer's verbs."""

    record: Callable[[TaskResult], Awaitable[None]]
    acknowledge: Callable[[Any], Awaitable[None]]


class Executor:
    """Runs jobs of one app: coroutines on the loop, plain functions in the threads."""

    def __init__(
        self,
        app: TaskQ,
        threads: ThreadPool,
        effects: Effects,
        *,
        hostname: str,
        now: Callable[[], float],
        log: RunLog,
    ) -> None:
        self._app = app
        self._conf = app.conf
        self._threads = threads
        self._effects = effects
        self._hostname = hostname
        self._now = now
        self._log = log

    # --- the run --------------------------------------------------------------------------------------------

    async def execute(self, job: Job) -> Outcome:
        """Run a job; whatever happens, an outcome comes back."""
        request, task = job.request, job.task
        if request.expires is not None and request.expires.timestamp() < self._now():
            return await self.revoked(job, EXPIRED)
        if not (self._conf.task_acks_late if task.acks_late is None else task.acks_late):
            await self._effects.acknowledge(job.delivery)
            job.acknowledged = True
        request.hostname = self._hostname
        request.record = self._effects.record
        current.set(request)
        try:
            await self._before(job)
            value = await self._run(job)
            outcome = await self._succeeded(job, value)
        except asyncio.CancelledError:
            if job.handed_back:
                return Outcome(job.delivery, settle=Settle.DONE if job.acknowledged else Settle.REQUEUE)
            outcome = await self._failed(job, TaskRevokedError("terminated"))
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            outcome = await self._judge(job, error)
        if signals.task_postrun.receivers:
            await signals.task_postrun.send(
                task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
            )
        return outcome

    async def _before(self, job: Job) -> None:
        request, task = job.request, job.task
        if signals.task_prerun.receivers:
            await signals.task_prerun.send(
                task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
            )
        if self._conf.task_track_started if task.track_started is None else task.track_started:
            meta = {"pid": self._log.pid, "hostname": self._hostname}
            self._effects.record(self._result(job, states.STARTED, meta))  # stored in order with what follows
        if _overridden(task, "before_start"):
            await self._hook(task, task.before_start, request.id, request.args, request.kwargs)

    async def _run(self, job: Job) -> Any:
        request, task = job.request, job.task
        limits = Limits.of(request, task, self._conf)
        if task.is_async:
            coroutine = task.run(*request.args, **request.kwargs)
            return await (coroutine if limits is None else limits.bound(coroutine))
        run = self._threads.submit(
            functools.partial(task.run, *request.args, **request.kwargs), _thread_context()
        )
        if limits is None:
            return await run.done
        return await limits.bound_thread(run, self._threads)

    # --- the verdict ----------------------------------------------------------------------------------------

    async def _succeeded(self, job: Job, value: Any) -> Outcome:
        """celery-protocol.md 5.4. A follow-up that cannot be written makes the run a failure."""
        messages = after_success(self._app, job.request, value) if _has_followups(job.request) else ()
        self._log.succeeded(job, value)
        results = [] if self._ignored(job) else [self._result(job, states.SUCCESS, value)]
        outcome = self._outcome(job, results, messages)
        if _has_hooks(job.task, "on_success") or signals.task_success.receivers:
            await self._after(job, states.SUCCESS, value, None)
        return outcome

    async def _judge(self, job: Job, error: BaseException) -> Outcome:
        if isinstance(error, Retry):
            return await self._retried(job, error)
        if isinstance(error, Ignore):
            return self._outcome(job)
        if isinstance(error, Reject):
            return self._rejected(job, error)
        if _is_retried(job.task, error):
            try:
                _automatic_retry(job.task, job.request, error)
            except Retry as retry:
                return await self._retried(job, retry)
            except BaseException as final:  # noqa: BLE001 - what the task ends with
                error = final
        return await self._failed(job, error)

    async def _retried(self, job: Job, retry: Retry) -> Outcome:
        due = retry_due(retry, self._now())
        try:
            messages = retry_message(self._app, job.request, retry, queue=job.delivery.queue, due=due)
        except (EncodeError, TypeError) as error:
            return await self._failed(job, error)
        self._log.retried(job, retry, due.timestamp() - self._now())
        text = _text(_from_user_code(retry))
        value = None if retry.exc is None else encode_exception(retry.exc)
        results = [] if self._ignored(job) else [self._result(job, states.RETRY, value, text)]
        if _has_hooks(job.task, "on_retry") or signals.task_retry.receivers:
            await self._after(job, states.RETRY, retry.exc, text)
        return self._outcome(job, results, messages)

    def _rejected(self, job: Job, reject: Reject) -> Outcome:
        self._log.rejected(job, reject)
        settle = Settle.REQUEUE if reject.requeue else Settle.REJECT
        outcome = self._outcome(job, settle=settle)
        outcome.reason = f"rejected by the task: {reject.reason}"
        if not reject.requeue and not self._ignored(job):  # as Celery 5.7 does
            outcome.results = [self._result(job, states.FAILURE, encode_exception(reject))]
        return outcome

    async def _failed(self, job: Job, error: BaseException) -> Outcome:
        """celery-protocol.md 5.5: store, then the rest of the chain, then the errbacks."""
        request = job.request
        error = _from_user_code(error)
        text = None if isinstance(error, TaskRevokedError | TimeLimitExceeded) else _text(error)
        self._log.failed(job, error)
        failure = self._result(job, states.FAILURE, encode_exception(error), text)
        if isinstance(error, TaskRevokedError):
            failure.state = states.REVOKED
        results = [] if self._ignored(job, failed=True) else [failure]
        results += failed_chain(request, failure)
        messages: Sequence[Message] = ()
        if request.errbacks:
            messages, here = after_failure(self._app, request)
            if here:
                for result in results:
                    await self._effects.record(result)
                results = []
                for errback in here:
                    await self._errback(errback, request, error, text)
        if _has_hooks(job.task, "on_failure") or signals.task_failure.receivers:
            await self._after(job, states.FAILURE, error, text)
        return self._outcome(job, results, messages)

    async def revoked(self, job: Job, why: str) -> Outcome:
        """A job that is not run: revoked or expired (celery-protocol.md 6.1, 6.2)."""
        self._log.revoked(job, why)
        if signals.task_revoked.receivers:
            await signals.task_revoked.send(
                job.task, request=job.request, terminated=False, signum=None, expired=why == EXPIRED
            )
        if self._ignored(job):
            return self._outcome(job)
        value = encode_exception(TaskRevokedError(why))
        return self._outcome(job, [self._result(job, states.REVOKED, value)])

    # --- parts ----------------------------------------------------------------------------------------------

    def _outcome(
        self,
        job: Job,
        results: Sequence[TaskResult] = (),
        messages: Sequence[Message] = (),
        settle: Settle = Settle.ACK,
    ) -> Outcome:
        return Outcome(job.delivery, results, messages, Settle.DONE if job.acknowledged else settle)

    def _ignored(self, job: Job, *, failed: bool = False) -> bool:
        ignore = job.request.ignore_result
        if ignore is None:
            ignore = job.task.ignore_result
        if ignore is None:
            ignore = self._conf.task_ignore_result
        if not ignore or not failed:
            return ignore
        keep = job.task.store_errors_even_if_ignored
        return not (self._conf.task_store_errors_even_if_ignored if keep is None else keep)

    def _result(self, job: Job, state: str, value: Any, text: str | None = None) -> TaskResult:
        request = job.request
        result = TaskResult(
            request.id,
            state,
            value,
            text,
            request.children,
            group_id=request.group,
            parent_id=request.parent_id,
            reply_to=request.reply_to,
        )
        if state in states.READY:
            result.date_done = datetime.now(UTC).isoformat()
        if self._conf.result_extended:
            result.extra = self._extended(job)
        return result

    def _extended(self, job: Job) -> dict[str, Any]:
        """`result_extended` (celery-protocol.md 4.3)."""
        request = job.request
        extra = {
            "name": request.task,
            "args": list(request.args),
            "kwargs": dict(request.kwargs),
            "worker": self._hostname,
            "retries": request.retries,
            "queue": request.delivery_info.get("routing_key"),
        }
        if request.stamped_headers:
            extra |= {"stamped_headers": request.stamped_headers, **request.stamps}
        return extra

    async def _errback(
        self, errback: Signature[Any], request: Request, error: BaseException, text: str | None
    ) -> None:
        """A new-style errback, here: its exceptions are logged and change nothing."""
        task = self._app.require_task(errback.task)
        call = functools.partial(task.run, request, error, text, *errback.args, **errback.kwargs)
        try:
            await (call() if task.is_async else self._threads.submit(call, _thread_context()).done)
        except Exception:
            logger.exception("the errback %s of %s[%s] failed", errback.task, request.task, request.id)

    async def _after(self, job: Job, state: str, value: Any, text: str | None) -> None:
        """Hooks and signals of an ended run: their exceptions are logged and change nothing."""
        try:
            await self._hooks(job, state, value, text)
        except Exception:
            logger.exception("a hook of %s[%s] failed", job.task.name, job.request.id)

    async def _hooks(self, job: Job, state: str, value: Any, text: str | None) -> None:
        task, request = job.task, job.request
        run = (request.id, request.args, request.kwargs)
        if state == states.SUCCESS:
            await signals.task_success.send(task, result=value)
            await self._hook(task, task.on_success, value, *run)
        elif state == states.RETRY:
            await signals.task_retry.send(task, request=request, reason=value, einfo=text)
            await self._hook(task, task.on_retry, value, *run, text)
        else:
            await signals.task_failure.send(
                task,
                task_id=request.id,
                exception=value,
                args=request.args,
                kwargs=request.kwargs,
                einfo=text,
            )
            await self._hook(task, task.on_failure, value, *run, text)
        await self._hook(task, task.after_return, state, value, *run, text)

    async def _hook(self, task: Task[Any, Any, Any], hook: Callable[..., Any], *args: Any) -> None:
        """A hook of a plain task runs in a thread like the task; one of a coroutine on the loop."""
        if task.is_async or inspect.iscoroutinefunction(hook):
            returned = hook(*args)
            if inspect.isawaitable(returned):
                await returned
        else:
            await self._threads.submit(functools.partial(hook, *args), _thread_context()).done


def _thread_context() -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(worker_loop.set, asyncio.get_running_loop())
    return context


def _has_followups(request: Request) -> bool:
    return bool(request.callbacks or request.chain)


def _overridden(task: Task[Any, Any, Any], hook: str) -> bool:
    return getattr(type(task), hook) is not getattr(Task, hook)


def _has_hooks(task: Task[Any, Any, Any], hook: str) -> bool:
    return _overridden(task, hook) or _overridden(task, "after_return")


def _is_retried(task: Task[Any, Any, Any], error: BaseException) -> bool:
    return isinstance(error, tuple(task.autoretry_for)) and not isinstance(
        error, tuple(task.dont_autoretry_for)
    )


def _automatic_retry(task: Task[Any, Any, Any], request: Request, error: BaseException) -> None:
    """`autoretry_for` (celery-protocol.md 6.3): always raises, Retry or what the task ends with."""
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        options["countdown"] = backoff(
            task.retry_backoff, request.retries, task.retry_backoff_max, jitter=task.retry_jitter
        )
    task.retry(exc=error, **options)


def backoff(factor: float, retries: int, maximum: float, *, jitter: bool) -> float:
    """Seconds until a retry: factor, twice that, four times ..., at most `maximum`; jitter: anything up to it."""
    seconds = min(maximum, max(1.0, float(factor)) * 2**retries)
    return random.uniform(0, seconds) if jitter else seconds  # noqa: S311 - jitter, not a secret


def _from_user_code(error: BaseException) -> BaseException:
    """The error with its traceback from the user's code on: our own frames at its top say nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("taskq.worker."):
        trace = trace.tb_next
    return error.with_traceback(trace or error.__traceback__)


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
