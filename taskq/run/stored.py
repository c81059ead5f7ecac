"""The states of a run as they are stored."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from taskq import states
from taskq.config.settings import Settings
from taskq.run.ends import RunFacts
from taskq.wire.exceptions import encode_exception
from taskq.wire.request import Request
from taskq.wire.result import TaskResult


def state_of(
    conf: Settings,
    request: Request,
    state: str,
    value: Any,
    text: str | None = None,
    *,
    now: float,
    children: Sequence[Any] = (),
) -> TaskResult:
    """A state of a run; a final one gets its time. `children` are handles of what is sent with this end."""
    done = datetime.fromtimestamp(now, UTC).isoformat() if state in states.READY else None
    kin = [*request.children, *children] if children else request.children
    result = TaskResult(request.id, state, value, text, kin, done, request.group, request.parent_id)
    result.reply_to = request.reply_to
    if conf.result_extended:
        result.extra = extended(request)
    return result


def failure_of(
    task_id: str, error: BaseException, *, now: float, reply_to: str = "", like: TaskResult | None = None
) -> TaskResult:
    """The failure of a task by an error of ours; with the place and the address of the state it stands for."""
    failure = TaskResult(task_id, states.FAILURE, encode_exception(error), reply_to=reply_to)
    if like is not None:
        failure.group_id, failure.parent_id = like.group_id, like.parent_id
        failure.reply_to = like.reply_to
    failure.date_done = datetime.fromtimestamp(now, UTC).isoformat()
    return failure


def extended(request: Request) -> dict[str, Any]:
    """What `result_extended` adds (wire-format.md 4.3)."""
    extra = {
        "name": request.task,
        "args": list(request.args),
        "kwargs": dict(request.kwargs),
        "worker": request.hostname,
        "retries": request.retries,
        "queue": request.delivery_info.get("routing_key"),
    }
    if request.stamped_headers:
        extra |= {"stamped_headers": request.stamped_headers, **request.stamps}
    return extra


def is_ignored(run: RunFacts, conf: Settings, *, failed: bool) -> bool:
    """Whether the final state is not stored: by the call, the task or the settings."""
    ignore = run.request.ignore_result
    if ignore is None:
        ignore = run.task.ignore_result
    if ignore is None:
        ignore = conf.task_ignore_result
    if not ignore or not failed:
        return ignore
    keep = run.task.store_errors_even_if_ignored
    return not (conf.task_store_errors_even_if_ignored if keep is None else keep)
