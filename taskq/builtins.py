"""The tasks every worker has, by Celery's names (wire-format.md 5.1): canvases are sent as calls of them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from taskq.seams.app import App
from taskq.task import Task
from taskq.wire.request import WireSignature


def builtin_tasks(app: App) -> dict[str, Task[Any, Any, Any]]:
    """`celery.accumulate`, `celery.map` and `celery.starmap` for one app."""

    async def accumulate(*args: Any, index: int | None = None) -> Any:
        return list(args) if index is None else args[index]

    async def map_(task: WireSignature, it: Sequence[Any]) -> list[Any]:
        return [await _called(app, task, item) for item in it]

    async def starmap(task: WireSignature, it: Sequence[Sequence[Any]]) -> list[Any]:
        return [await _called(app, task, *item) for item in it]

    functions: dict[str, Callable[..., Any]] = {
        "celery.accumulate": accumulate,
        "celery.map": map_,
        "celery.starmap": starmap,
    }
    return {name: Task(fun, app, name, {}, bind=False) for name, fun in functions.items()}


async def _called(app: App, signature: WireSignature, *args: Any) -> Any:
    """Call a task's function here: a coroutine on the loop, a plain function in a thread."""
    task = app.require_task(signature["task"])
    call_args = (*args, *(signature.get("args") or ()))
    kwargs = signature.get("kwargs") or {}
    if task.is_async:
        return await task.run(*call_args, **kwargs)
    return await asyncio.to_thread(task.run, *call_args, **kwargs)
