"""What follows a run: callbacks, the next step of a chain, errbacks, a retry. Decided here, sent elsewhere."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from taskq.canvas.lowering import gathered
from taskq.canvas.shapes import ends_in_group, group
from taskq.canvas.signature import Signature, as_signature, as_signatures
from taskq.canvas.stamps import NAMES, Stamping, first
from taskq.errors import Replaced, Retry
from taskq.run.outcome import ErrbackCall, FollowUps, Problem
from taskq.seams.app import App
from taskq.wire.fields import own_options
from taskq.wire.request import Request


def after_success(app: App, request: Request, value: Any) -> FollowUps:
    """Callbacks, then the next step of the chain (wire-format.md 5.4), each with the value as first argument.

    What is sent is noted among its `children`.
    """
    follow = FollowUps()
    for signature in _callbacks(request):
        follow.add(sent(app, request, signature.merged((value,), None, {})))
    if request.chain:
        step = as_signature(request.chain[-1])
        chain = list(request.chain[:-1])
        follow.add(sent(app, request, step.merged((value,), None, {"chain": chain})))
    return follow


def _callbacks(request: Request) -> list[Signature[Any]]:
    """One callback goes alone; of several, the plain ones go as one group, as Celery sends them."""
    signatures = [as_signature(link) for link in request.callbacks or ()]
    plain = [signature for signature in signatures if type(signature) is Signature]
    if len(signatures) < 2 or not plain:
        return signatures
    return [*(s for s in signatures if type(s) is not Signature), group(*plain)]


def sent(app: App, request: Request, signature: Signature[Any]) -> FollowUps:
    """Have a signature sent by this run."""
    messages, result, chords = app.prepare(signature, request.reply_to, request)
    return FollowUps(messages, dict(chords), children=[result.as_tuple()])


class Errbacks(NamedTuple):
    """What is to be done after a failure: messages of the old style, errbacks to call here of the new.

    `problems` tell why those of the old style could not be written.
    """

    follow: FollowUps
    here: list[ErrbackCall]
    problems: list[Problem]


def after_failure(app: App, request: Request, error: BaseException, text: str | None) -> Errbacks:
    """The errbacks (wire-format.md 5.5); those of the old style go as one group."""
    here: list[ErrbackCall] = []
    away: list[Signature[Any]] = []
    for link in request.errbacks or ():
        signature = as_signature(link)
        if runs_here(app, signature):
            here.append(ErrbackCall(signature, request, error, text))
        else:
            away.append(signature)
    if not away:
        return Errbacks(FollowUps(), here, [])
    try:
        prepared = app.prepare(group(*away).merged((request.id,), None, {}), request.reply_to, request)
    except Exception as refusal:  # noqa: BLE001 - whatever keeps them from being sent
        problem = Problem(f"the errbacks of {request.task}[{request.id}] cannot be sent", refusal)
        return Errbacks(FollowUps(), here, [problem])
    return Errbacks(FollowUps(prepared.messages, dict(prepared.chords)), here, [])


def runs_here(app: App, signature: Signature[Any]) -> bool:
    """New style: known here, not bound, and taking more than the failed task's id."""
    task = app.find_task(signature.task)
    return task is not None and not task.bind and task.arguments.most_positional > 1


def retried(app: App, request: Request, retry: Retry, *, queue: str, due: datetime) -> FollowUps:
    """The task itself again (wire-format.md 6.3): same id, one retry more, to the queue it came from."""
    options = {
        **own_options(request),
        "queue": queue,
        **retry.options,
        "retries": request.retries + 1,
        "eta": due,
    }
    args: Sequence[Any] = request.args if retry.args_ is None else retry.args_
    kwargs = request.kwargs if retry.kwargs_ is None else retry.kwargs_
    again = Signature[Any](request.task, args, kwargs, options)
    return FollowUps(app.prepare(again, request.reply_to, request).messages)


def retry_due(retry: Retry, now: float) -> datetime:
    """When a retry is due: its time, or so many seconds from now."""
    if isinstance(retry.when, datetime):
        return retry.when if retry.when.tzinfo is not None else retry.when.replace(tzinfo=UTC)
    return datetime.fromtimestamp(now + (retry.when or 0), UTC)


def replaced(app: App, request: Request, replacement: Replaced) -> FollowUps:
    """Another signature in the task's place (wire-format.md 5.7): its id, its callbacks, its chain and chord."""
    signature = replacement.signature
    if ends_in_group(signature):
        signature = gathered(signature)
    if request.stamps:
        stamps = {**request.stamps, NAMES: list(request.stamps)}
        signature = signature.stamped(Stamping(None, first), stamps)
    signature = signature.link(*as_signatures(request.callbacks)).link_error(*as_signatures(request.errbacks))
    place = own_options(request, replacement=True)
    place["replaced_task_nesting"] = request.replaced_task_nesting + 1
    moved = signature.replaced(options={**signature.options, **place})
    prepared = app.prepare(moved, request.reply_to, request)
    return FollowUps(prepared.messages, dict(prepared.chords))
