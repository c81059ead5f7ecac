"""What comes of a run: `decide(app, run, how it ended, now)` is an `Outcome`, a list of what is to be done.

Pure: nothing is stored, sent, called, told or waited for here. The worker's completer does that, in one order.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from taskq import states
from taskq.errors import (
    ChordError,
    DecodeError,
    Ignore,
    Reject,
    Replaced,
    Retry,
    TaskRevokedError,
    TimeLimitExceeded,
    UntrustedMessage,
    WorkerLostError,
)
from taskq.run.chords import completed, failed_body, failed_chain, parts_of
from taskq.run.ends import (
    Broken,
    End,
    Failed,
    GivenBack,
    Inadmissible,
    Lost,
    OtherEnd,
    Raised,
    Returned,
    Revoked,
    RunFacts,
)
from taskq.run.followups import after_failure, after_success, replaced, retried, retry_due
from taskq.run.outcome import ChordPart, FollowUps, Further, News, Outcome, Problem, Settle
from taskq.run.retries import is_retried, retry_by_itself
from taskq.run.stored import failure_of, is_ignored, state_of
from taskq.seams.app import App
from taskq.wire.exceptions import encode_exception
from taskq.wire.message import Delivery, Message
from taskq.wire.protocol import decode, task_id_of
from taskq.wire.request import Request
from taskq.wire.result import TaskResult


def decide(app: App, run: RunFacts, end: End, now: float) -> Outcome:
    """What comes of a run that ended like this, at `now` (Unix seconds). Never raises."""
    try:
        if type(end) is Returned:  # nearly always
            return _returned(app, run, end.value, now)
        return _decided(app, run, end, now)
    except Exception as error:  # noqa: BLE001 - a bug of ours or a poisoned message: it is put away, and nobody waits in vain
        return _put_away(app, run, error, now)


def _decided(app: App, run: RunFacts, end: OtherEnd, now: float) -> Outcome:
    if isinstance(end, Raised):
        return _raised(app, run, end.error, end.text, now)
    if isinstance(end, Failed):
        return _failed(app, run, end.error, end.text, now)
    if isinstance(end, Revoked):
        return _revoked(app, run, end, now)
    if isinstance(end, Broken):
        raise end.error
    return _cut_short(app, run, end, now)


# --- by kind of end -----------------------------------------------------------------------------------------


def _returned(app: App, run: RunFacts, value: Any, now: float) -> Outcome:
    """wire-format.md 5.4. A follow-up that cannot be written makes it a failure."""
    request, follow = run.request, None
    if request.callbacks or request.chain:
        try:
            follow = after_success(app, request, value)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
            return _failed(app, run, error, _short(error), now)
    children = () if follow is None else follow.children
    result = state_of(app.conf, request, states.SUCCESS, value, now=now, children=children)
    outcome = Outcome(run.delivery, [] if is_ignored(run, app.conf, failed=False) else [result], follow)
    if run.acknowledged:
        outcome.settle = Settle.DONE
    outcome.news = News("succeeded", (run, value))
    if request.chord is not None:
        outcome.parts = parts_of(request, result)
    return outcome


def _raised(app: App, run: RunFacts, error: BaseException, text: str | None, now: float) -> Outcome:
    """An exception, or what a task raises to say how it ends."""
    if isinstance(error, Replaced):
        return _replaced(app, run, error, now)
    if isinstance(error, Ignore):
        return _ignored(app, run, error, now)
    if isinstance(error, Reject):
        return _rejected(app, run, error, now)
    if not isinstance(error, Retry) and is_retried(run.task, error):
        error = retry_by_itself(run.task, run.request, error)
    if isinstance(error, Retry):
        return _retried(app, run, error, text, now)
    return _failed(app, run, error, text, now)


def _failed(app: App, run: RunFacts, error: BaseException, text: str | None, now: float) -> Outcome:
    """wire-format.md 5.5: the failure, the rest of the chain, the errbacks, the chord."""
    revoked = isinstance(error, TaskRevokedError)
    if revoked or isinstance(error, TimeLimitExceeded):
        text = None
    state = states.REVOKED if revoked else states.FAILURE
    failure = state_of(app.conf, run.request, state, encode_exception(error), text, now=now)
    outcome = _outcome(run, _stored(app, run, failure, failed=True))
    if not revoked and not app.conf.task_acks_on_failure_or_timeout and outcome.settle is Settle.ACK:
        outcome.settle, outcome.reason = Settle.REJECT, f"the task failed: {error!r:.200}"
    outcome.news = News("failed", (run, error), text)
    outcome.add(_after_failure(app, run.request, failure, None if revoked else error, text))
    return outcome


def _retried(app: App, run: RunFacts, retry: Retry, text: str | None, now: float) -> Outcome:
    try:
        due = retry_due(retry, now)
        follow = retried(app, run.request, retry, queue=run.delivery.queue, due=due)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
        return _failed(app, run, error, _short(error), now)
    value = None if retry.exc is None else encode_exception(retry.exc)
    result = state_of(app.conf, run.request, states.RETRY, value, text, now=now)
    outcome = _outcome(run, _stored(app, run, result), follow)
    outcome.news = News("retried", (run, retry, due.timestamp() - now), text)
    return outcome


def _replaced(app: App, run: RunFacts, replacement: Replaced, now: float) -> Outcome:
    try:
        return _outcome(run, (), replaced(app, run.request, replacement))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
        return _failed(app, run, error, _short(error), now)


def _ignored(app: App, run: RunFacts, ignore: Ignore, now: float) -> Outcome:
    """No state is stored. The rest of the chain will not run and is revoked; a chord would wait for ever, so it fails."""
    outcome = _outcome(run)
    ignored = state_of(app.conf, run.request, states.IGNORED, encode_exception(ignore), now=now)
    outcome.parts = parts_of(run.request, ignored)
    if run.request.chain:
        error = TaskRevokedError(f"{run.request.task}[{run.request.id}] before it was ignored")
        revoked = state_of(app.conf, run.request, states.REVOKED, encode_exception(error), now=now)
        outcome.results = failed_chain(run.request, revoked)
    return outcome


def _rejected(app: App, run: RunFacts, reject: Reject, now: float) -> Outcome:
    outcome = _outcome(run, settle=Settle.REQUEUE if reject.requeue else Settle.REJECT)
    outcome.reason = f"rejected by the task: {reject.reason}"
    outcome.news = News("rejected", (run, reject))
    if not reject.requeue:  # as Celery 5.7 does
        failure = state_of(app.conf, run.request, states.FAILURE, encode_exception(reject), now=now)
        outcome.results = _stored(app, run, failure, failed=True)
        outcome.add(_after_failure(app, run.request, failure, reject, None))
    return outcome


def _revoked(app: App, run: RunFacts, end: Revoked, now: float) -> Outcome:
    """Not run, or ended by remote control (wire-format.md 6.1, 6.2): the rest of the chain is revoked with it."""
    value = encode_exception(TaskRevokedError(end.why))
    result = state_of(app.conf, run.request, states.REVOKED, value, now=now)
    outcome = _outcome(run, _stored(app, run, result))
    outcome.news = News("revoked", (run, end))
    outcome.add(_after_failure(app, run.request, result, None, None))
    return outcome


def _cut_short(app: App, run: RunFacts, end: Lost | GivenBack, now: float) -> Outcome:
    """It is another run's. A process that died counts: after `max_deaths` the message is put away."""
    lost = end.error if isinstance(end, Lost) else None
    if run.acknowledged:  # nobody else has the message
        why = ("the worker stopped before the task had ended",) if lost is None else lost.args
        return _failed(app, run, WorkerLostError(*why), None, now)
    outcome = Outcome(run.delivery, settle=Settle.REQUEUE, died=lost is not None)
    if lost is not None or (isinstance(end, GivenBack) and end.began):
        outcome.news = News("returned", (run, lost))
    return outcome


# --- what was no run ----------------------------------------------------------------------------------------


def decide_inadmissible(app: App, message: Inadmissible, now: float) -> Outcome:
    """A message that can never be run goes to the dead letters.

    Its caller learns of it as a FAILURE, where Celery leaves it waiting (wire-format.md 1.11), and so do its chain,
    its errbacks and its chord.
    """
    task_id = task_id_of(message.delivery.message)
    outcome = Outcome(message.delivery, settle=Settle.REJECT, reason=message.reason)
    outcome.news = News("dead", (message, task_id))
    if task_id is None or isinstance(message.error, UntrustedMessage):  # then the id may be another's
        return outcome
    failure = failure_of(task_id, message.error, now=now, reply_to=message.delivery.message.reply_to)
    outcome.results = [failure]
    if message.request is not None:
        outcome.add(_after_failure(app, message.request, failure, message.error, None))
    return outcome


def decide_unsent(app: App, message: Message, error: Exception, now: float) -> Further:
    """A follow-up that can never be sent fails, and with it what waits for it."""
    failure = failure_of(str(task_id_of(message)), error, now=now, reply_to=message.reply_to)
    conf = app.conf
    try:
        request = decode(message, frozenset(conf.accept_content), max_inflated=conf.max_inflated_bytes)
    except DecodeError:
        return Further(results=[failure])
    further = _after_failure(app, request, failure, error, None)
    further.results.insert(0, failure)
    return further


def decide_joined(app: App, part: ChordPart, parts: Sequence[TaskResult]) -> Further:
    """A part has brought its chord to an end: the body, or its failure."""
    try:
        return completed(app, part, parts)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
        return failed_body(app, part, ChordError(f"the body cannot be sent: {error}"))


def decide_unjoined(app: App, part: ChordPart, error: Exception) -> Further:
    """The store will never take this part, so its chord can never be complete."""
    return failed_body(app, part, ChordError(f"{part.result.task_id} cannot return to its chord: {error}"))


def decide_unhandled(delivery: Delivery, error: Exception, now: float) -> Outcome:
    """A message that we could not deal with in full, poisoned or for a bug of ours. Tried again it would fail again."""
    task_id = task_id_of(delivery.message)
    reply_to = delivery.message.reply_to
    results = [] if task_id is None else [failure_of(task_id, error, now=now, reply_to=reply_to)]
    return Outcome(
        delivery, results, settle=Settle.REJECT, reason=f"its end could not be handled: {error!r:.200}"
    )


# --- parts --------------------------------------------------------------------------------------------------


def _outcome(
    run: RunFacts,
    results: Sequence[TaskResult] = (),
    follow: FollowUps | None = None,
    settle: Settle = Settle.ACK,
) -> Outcome:
    return Outcome(run.delivery, results, follow, Settle.DONE if run.acknowledged else settle)


def _stored(app: App, run: RunFacts, result: TaskResult, *, failed: bool = False) -> list[TaskResult]:
    return [] if is_ignored(run, app.conf, failed=failed) else [result]


def _after_failure(
    app: App, request: Request, failure: TaskResult, error: BaseException | None, text: str | None
) -> Further:
    """What comes after a failure: that of the rest of the chain, the errbacks, the chord.

    One of them that is broken keeps nothing from the others. Without an `error` (it was revoked) no errback is called.
    """
    further = Further()

    def fail_chain() -> None:
        further.results += failed_chain(request, failure)

    def call_errbacks() -> None:
        errbacks = after_failure(app, request, error, text) if error is not None else None
        if errbacks is not None:
            further.follow.add(errbacks.follow)
            further.errbacks += errbacks.here
            further.problems += errbacks.problems

    def return_to_chord() -> None:
        further.parts += parts_of(request, failure)

    steps: list[tuple[str, Callable[[], None]]] = [
        ("the rest of the chain", fail_chain),
        ("the errbacks", call_errbacks),
        ("the chord", return_to_chord),
    ]
    for what, step in steps:
        try:
            step()
        except Exception as problem:  # noqa: BLE001 - signatures in a message may be anything
            text_of = f"{what} of {request.task}[{request.id}] cannot be told of its failure"
            further.problems.append(Problem(text_of, problem))
    return further


def _put_away(app: App, run: RunFacts, error: Exception, now: float) -> Outcome:
    problem = Problem(f"could not handle the end of {run.request.task}[{run.request.id}]", error)
    try:
        outcome = _failed(app, run, error, _short(error), now)
    except Exception as second:  # noqa: BLE001 - then only the essential: it is stored, and put away
        outcome = decide_unhandled(run.delivery, second, now)
    if run.acknowledged:
        outcome.settle = Settle.DONE
    else:
        outcome.settle, outcome.reason = Settle.REJECT, f"its end could not be handled: {error!r:.200}"
    outcome.problems = [problem, *outcome.problems]
    return outcome


def _short(error: BaseException) -> str:
    """For errors of ours: their traceback would show our code alone."""
    return "".join(traceback.format_exception_only(error))
