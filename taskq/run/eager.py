"""Running a signature here and now, as a worker would: for `apply` and `task_always_eager`."""

import asyncio
import functools
import traceback
from typing import Any

from taskq import signals, states
from taskq.canvas.shapes import chain, chord, dissolved, group, undone
from taskq.canvas.signature import Signature, as_signature, as_signatures, new_id
from taskq.canvas.stamps import NAMES
from taskq.errors import ChordError, Ignore, Reject, Replaced, Retry
from taskq.results.handles import AsyncResult, GroupResult
from taskq.run.hooks import Hooks
from taskq.run.retries import is_retried, retry_by_itself
from taskq.seams.app import App
from taskq.task import Task
from taskq.wire.exceptions import encode_exception
from taskq.wire.fields import own_options
from taskq.wire.request import Request, current
from taskq.wire.result import TaskResult

_HOOKS = Hooks(asyncio.to_thread)


async def run_eagerly(app: App, signature: Signature[Any]) -> AsyncResult[Any] | GroupResult[Any]:
    """Run a signature with its retries, callbacks, hooks and signals; parts of a canvas one after the other.

    Raises:
        NotRegistered: there is no such task here.
        Exception: the task's own, with the setting `task_eager_propagates`.
    """
    if isinstance(signature, group):
        source = signature.source
        tasks = dissolved(signature) if source is None else [task async for task in source]
        members = [await run_eagerly(app, task) for task in tasks]
        return GroupResult(signature.options.get("task_id") or new_id(), members, app)
    if isinstance(signature, chain):
        first, *rest = undone(signature)
        result = await run_eagerly(app, first)
        for step in rest:
            result = await _run_next(app, result, step)
        return result
    if isinstance(signature, chord):
        return await _run_chord(app, signature.settled())
    request = _request(signature)
    single: AsyncResult[Any] = AsyncResult(request.id, app)
    single.see(await _run(app, request))
    return single


async def _run_chord(app: App, settled: "chord[Any]") -> AsyncResult[Any] | GroupResult[Any]:
    header, body = await run_eagerly(app, settled.header), settled.body
    if body is None:
        return header
    failed = _failed(header)
    if failed is None:
        return await _run_next(app, header, body)
    error = ChordError(f"Dependency {failed.id} raised {failed.result!r}")
    request = _request(body)
    await _errbacks(app, request, error, "")
    result: AsyncResult[Any] = AsyncResult(request.id, app, header)
    result.see(TaskResult(request.id, states.FAILURE, encode_exception(error)))
    return result


async def _run_next(
    app: App, before: AsyncResult[Any] | GroupResult[Any], step: Signature[Any]
) -> AsyncResult[Any] | GroupResult[Any]:
    """The next step with the result of the one before; a failure before it is its failure, too."""
    failed = _failed(before)
    if failed is not None:
        return failed
    after = await run_eagerly(app, step.merged((_value(before),), None, {}))
    after.parent = before
    return after


def _failed(result: AsyncResult[Any] | GroupResult[Any]) -> AsyncResult[Any] | None:
    return next((leaf for leaf in result.leaves() if leaf.state != states.SUCCESS), None)


def _value(result: AsyncResult[Any] | GroupResult[Any]) -> Any:
    return [_value(one) for one in result.results] if isinstance(result, GroupResult) else result.result


def _request(signature: Signature[Any]) -> Request:
    get = signature.options.get
    task_id = get("task_id") or new_id()
    links = as_signatures(get("link")), as_signatures(get("link_error"))
    callbacks, errbacks = ([link.to_dict() for link in side] or None for side in links)
    return Request(
        id=task_id,
        task=signature.task,
        args=signature.args,
        kwargs=signature.kwargs,
        root_id=get("root_id") or task_id,
        parent_id=get("parent_id"),
        group=get("group_id"),
        group_index=get("group_index"),
        retries=get("retries") or 0,
        callbacks=callbacks,
        errbacks=errbacks,
        headers=dict(get("headers") or {}),
        stamped_headers=get(NAMES),
        stamps={name: get(name) for name in get(NAMES) or ()},
        is_eager=True,
    )


async def _run(app: App, request: Request) -> TaskResult:
    task: Any = app.require_task(request.task)
    token = current.set(request)
    try:
        await _HOOKS.around(signals.task_prerun, task, request)
        result = await _attempt(app, task, request)
        await _HOOKS.around(signals.task_postrun, task, request)
    finally:
        current.reset(token)
    result.children = request.children
    return result


async def _attempt(app: App, task: Task[Any, Any, Any], request: Request) -> TaskResult:
    try:
        await _HOOKS.before_start(task, request)
        run = functools.partial(task.run, **request.kwargs)
        value = await _HOOKS.call(task, run, *request.args)
    except Retry as retry:
        return await _again(app, task, request, retry)
    except Replaced as replacement:
        instead = await run_eagerly(app, replacement.signature)
        if (failed := _failed(instead)) is not None:
            if not isinstance(failed.result, Exception):  # it was ignored or rejected
                return TaskResult(request.id, failed.state)
            return await _ended_badly(app, task, request, failed.result, failed.traceback or "")
        value = _value(instead)
    except (Ignore, Reject) as control:
        return TaskResult(request.id, states.IGNORED if isinstance(control, Ignore) else states.REJECTED)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its outcome
        return await _retried_or_failed(app, task, request, error)
    for link in request.callbacks or ():
        await run_eagerly(app, as_signature(link, app).merged((value,), None, {}))
    await _HOOKS.ended(task, request, states.SUCCESS, value, None)
    return TaskResult(request.id, states.SUCCESS, value)


async def _retried_or_failed(
    app: App, task: Task[Any, Any, Any], request: Request, error: Exception
) -> TaskResult:
    final: BaseException = error
    if is_retried(task, error):
        final = retry_by_itself(task, request, error)
        if isinstance(final, Retry):
            return await _again(app, task, request, final)
    if app.conf.task_eager_propagates:
        raise error
    return await _ended_badly(app, task, request, error, "".join(traceback.format_exception(error)))


async def _ended_badly(
    app: App, task: Task[Any, Any, Any], request: Request, error: Exception, text: str
) -> TaskResult:
    await _errbacks(app, request, error, text)
    await _HOOKS.ended(task, request, states.FAILURE, error, text)
    return TaskResult(request.id, states.FAILURE, encode_exception(error), text)


async def _again(app: App, task: Task[Any, Any, Any], request: Request, retry: Retry) -> TaskResult:
    """A retry runs at once: there is nobody to wait for it."""
    await _HOOKS.ended(task, request, states.RETRY, retry.exc, "".join(traceback.format_exception(retry)))
    options = {**own_options(request), **retry.options, "retries": request.retries + 1}
    args = request.args if retry.args_ is None else retry.args_
    kwargs = request.kwargs if retry.kwargs_ is None else retry.kwargs_
    return await _run(app, _request(Signature(request.task, args, kwargs, options)))


async def _errbacks(app: App, request: Request, error: Exception, text: str) -> None:
    """Both styles of wire-format.md 5.5."""
    for link in request.errbacks or ():
        signature = as_signature(link, app)
        task: Any = app.find_task(signature.task)
        if task is not None and not task.bind and task.arguments.most_positional > 1:
            call = functools.partial(task.run, **signature.kwargs)
            await _HOOKS.call(task, call, request, error, text, *signature.args)
        else:
            await run_eagerly(app, signature.merged((request.id,), None, {}))
