"""What follows a run: callbacks, the next step of a chain, errbacks, a retry. Decided here, sent elsewhere."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from taskq import states
from taskq.calls import own_options
from taskq.canvas import group
from taskq.errors import Retry
from taskq.message import Message
from taskq.request import Request
from taskq.results import AsyncResult, GroupResult
from taskq.signature import Signature, as_signature
from taskq.store import TaskResult
from taskq.task import Task


class Preparer(Protocol):
    """The app, as far as follow-ups know it."""

    def prepare(
        self, signature: Signature[Any], reply_to: str = "", parent: Request | None = None
    ) -> tuple[list[Message], AsyncResult[Any] | GroupResult[Any]]: ...

    def find_task(self, name: str) -> Task[Any, Any, Any] | None: ...


def after_success(app: Preparer, request: Request, value: Any) -> list[Message]:
    """Callbacks, then the next step of the chain (celery-protocol.md 5.4), each with the value as first argument.

    What is sent is noted among the request's children.
    """
    messages: list[Message] = []
    for signature in _callbacks(request):
        messages += _sent(app, request, signature.merged((value,), None, {}))
    if request.chain:
        step = as_signature(request.chain[-1])
        chain = list(request.chain[:-1])
        messages += _sent(app, request, step.merged((value,), None, {"chain": chain}))
    return messages


def _callbacks(request: Request) -> list[Signature[Any]]:
    """One callback goes alone; several plain ones go as one group, as Celery sends them."""
    signatures = [as_signature(link) for link in request.callbacks or ()]
    plain = [signature for signature in signatures if not isinstance(signature, group)]
    if len(plain) < 2:
        return signatures
    return [*(s for s in signatures if isinstance(s, group)), group(*plain)]


def _sent(app: Preparer, request: Request, signature: Signature[Any]) -> list[Message]:
    messages, result = app.prepare(signature, request.reply_to, request)
    request.children.append(result.as_tuple())
    return messages


def after_failure(app: Preparer, request: Request) -> tuple[list[Message], list[Signature[Any]]]:
    """The errbacks (celery-protocol.md 5.5): messages for the old style, signatures to run here for the new."""
    here: list[Signature[Any]] = []
    away: list[Signature[Any]] = []
    for link in request.errbacks or ():
        signature = as_signature(link)
        (here if _runs_here(app, signature) else away).append(signature)
    if not away:
        return [], here
    signature = group(*away).merged((request.id,), None, {})
    messages, _ = app.prepare(signature, request.reply_to, request)
    return messages, here


def _runs_here(app: Preparer, signature: Signature[Any]) -> bool:
    """New style: known here, not bound, and taking more than the failed task's id."""
    task = app.find_task(signature.task)
    return task is not None and not task.bind and task.arguments.most_positional > 1


def failed_chain(request: Request, failure: TaskResult) -> list[TaskResult]:
    """The same failure for every step of the chain that will not run, so that waiting for its end raises."""
    ids = [(link.get("options") or {}).get("task_id") for link in request.chain or ()]
    return [
        TaskResult(
            task_id,
            states.FAILURE,
            failure.value,
            failure.traceback,
            date_done=failure.date_done,
            parent_id=request.id,
            reply_to=request.reply_to,
        )
        for task_id in ids
        if task_id
    ]


def retry_message(
    app: Preparer, request: Request, retry: Retry, *, queue: str, due: datetime
) -> list[Message]:
    """The task itself again (celery-protocol.md 6.3): same id, one retry more, to the queue it came from."""
    options = {
        **own_options(request),
        "queue": queue,
        **retry.options,
        "retries": request.retries + 1,
        "eta": due,
    }
    args: Sequence[Any] = request.args if retry.args_ is None else retry.args_
    kwargs = request.kwargs if retry.kwargs_ is None else retry.kwargs_
    messages, _ = app.prepare(Signature(request.task, args, kwargs, options), request.reply_to, request)
    return messages


def retry_due(retry: Retry, now: float) -> datetime:
    """When a retry is due: its time, or so many seconds from now."""
    if isinstance(retry.when, datetime):
        return retry.when if retry.when.tzinfo is not None else retry.when.replace(tzinfo=UTC)
    return datetime.fromtimestamp(now + (retry.when or 0), UTC)
