"""The states of a run as they are stored."""

from datetime import UTC, datetime
from typing import Any

from taskq import states
from taskq.config.settings import Settings
from taskq.run.outcome import Outcome, Settle
from taskq.seams.store import TaskResult
from taskq.wire.exceptions import encode_exception
from taskq.wire.message import Delivery
from taskq.wire.protocol import task_id_of
from taskq.worker.run.job import Job


def stored_state(job: Job, state: str, value: Any, text: str | None = None) -> TaskResult:
    """A state of a job's run; a final one gets its time."""
    request = job.request
    done = datetime.now(UTC).isoformat() if state in states.READY else None
    result = TaskResult(
        request.id, state, value, text, request.children, done, request.group, request.parent_id
    )
    result.reply_to = request.reply_to
    return result


def failure_of(
    task_id: str, error: BaseException, *, reply_to: str = "", like: TaskResult | None = None
) -> TaskResult:
    """The failure of a task by an error of ours; with the place and the address of the state it stands for."""
    failure = TaskResult(task_id, states.FAILURE, encode_exception(error), reply_to=reply_to)
    if like is not None:
        failure.group_id, failure.parent_id = like.group_id, like.parent_id
        failure.reply_to = like.reply_to
    failure.date_done = datetime.now(UTC).isoformat()
    return failure


def unhandled(delivery: Delivery, error: Exception) -> Outcome:
    """A message that we could not deal with in full, poisoned or for a bug of ours. Tried again it would fail again."""
    task_id = task_id_of(delivery.message)
    failure = [] if task_id is None else [failure_of(task_id, error, reply_to=delivery.message.reply_to)]
    return Outcome(
        delivery, failure, settle=Settle.REJECT, reason=f"its end could not be handled: {error!r:.200}"
    )


def extended(job: Job) -> dict[str, Any]:
    """What `result_extended` adds (wire-format.md 4.3)."""
    request = job.request
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


def is_ignored(job: Job, conf: Settings, *, failed: bool) -> bool:
    """Whether the final state is not stored: by the call, the task or the settings."""
    ignore = job.request.ignore_result
    if ignore is None:
        ignore = job.task.ignore_result
    if ignore is None:
        ignore = conf.task_ignore_result
    if not ignore or not failed:
        return ignore
    keep = job.task.store_errors_even_if_ignored
    return not (conf.task_store_errors_even_if_ignored if keep is None else keep)
