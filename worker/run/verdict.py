"""What a run came to: from a value or an exception to an outcome."""

import functools
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from taskq import signals, states
from taskq.app import TaskQ
from taskq.errors import (
    ChordError,
    DecodeError,
    Ignore,
    NotRegistered,
    Reject,
    Replaced,
    Retry,
    TaskRevokedError,
    TimeLimitExceeded,
    UntrustedMessage,
    WorkerLostError,
)
from taskq.run.chords import ChordPart, Completed, completed, failed_body, failed_chain, parts_of
from taskq.run.followups import (
    Errbacks,
    after_failure,
    after_success,
    replaced,
    retried,
    retry_due,
)
from taskq.run.hooks import Hooks
from taskq.run.outcome import FollowUps, Outcome, Settle
from taskq.run.retries import is_retried, retry_by_itself
from taskq.seams.store import TaskResult
from taskq.wire.exceptions import encode_exception
from taskq.wire.message import Delivery, Message
from taskq.wire.protocol import decode, task_id_of
from taskq.wire.request import Request
from taskq.worker.effects.effects import Effects
from taskq.worker.intake.admission import Inadmissible
from taskq.worker.pools.child_protocol import RemoteTraceback
from taskq.worker.pools.processes import ProcessLost
from taskq.worker.run.job import Job
from taskq.worker.run.runlog import RunLog
from taskq.worker.run.states import extended, failure_of, is_ignored, stored_state

logger = logging.getLogger("taskq.worker")

#: Arguments of Celery's TaskRevokedError (wire-format.md 4.4).
EXPIRED, REVOKED, TERMINATED = "expired", "revoked", "terminated"


class Verdict:
    """Decides outcomes for one app. Errbacks, hooks and returns to chords happen here, before the outcome."""

    def __init__(
        self, app: TaskQ, effects: Effects, hooks: Hooks, *, now: Callable[[], float], log: RunLog
    ) -> None:
        self._app = app
        self._conf = app.conf
        self._effects = effects
        self.hooks = hooks
        self._now = now
        self.log = log

    # --- by kind of end -------------------------------------------------------------------------------------

    async def succeeded(self, job: Job, value: Any) -> Outcome:
        """wire-format.md 5.4. A follow-up that cannot be written raises, which makes the run a failure."""
        request = job.request
        follow = after_success(self._app, request, value) if request.callbacks or request.chain else None
        self.log.succeeded(job, value)
        result = self._state(job, states.SUCCESS, value)
        outcome = self._outcome(job, self._stored(job, result), follow)
        if request.chord is not None:
            await self._return(request, outcome, result)
        await self.hooks.ended(job.task, request, states.SUCCESS, value, None)
        return outcome

    async def of(self, job: Job, error: BaseException) -> Outcome:
        """The outcome of an exception."""
        if isinstance(error, Retry):
            return await self._retried(job, error)
        if isinstance(error, Replaced):
            return await self._replaced(job, error)
        if isinstance(error, Ignore):
            return await self._ignored(job, error)
        if isinstance(error, Reject):
            return await self._rejected(job, error)
        if is_retried(job.task, error):
            try:
                retry_by_itself(job.task, job.request, error)
            except Retry as retry:
                return await self._retried(job, retry)
            except BaseException as final:  # noqa: BLE001 - what the task ends with
                error = final
        return await self.failed(job, error)

    async def failed(self, job: Job, error: BaseException) -> Outcome:
        """wire-format.md 5.5: the failure, the rest of the chain, the errbacks, the chord."""
        request = job.request
        error = from_user_code(error)
        revoked = isinstance(error, TaskRevokedError)
        text = None if revoked or isinstance(error, TimeLimitExceeded) else as_text(error)
        self.log.failed(job, error)
        state = states.REVOKED if revoked else states.FAILURE
        failure = self._state(job, state, encode_exception(error), text)
        outcome = self._outcome(job, self._stored(job, failure, failed=True))
        if not revoked and not self._conf.task_acks_on_failure_or_timeout and outcome.settle is Settle.ACK:
            outcome.settle, outcome.reason = Settle.REJECT, f"the task failed: {error!r:.200}"
        if revoked:
            await self._never_after(request, outcome, failure)
        else:
            await self._failed_after(request, outcome, failure, error, text)
        await self.hooks.ended(job.task, request, states.FAILURE, error, text)
        return outcome

    def handed_back(self, job: Job) -> Outcome:
        """A run that was ended because the worker stops: another worker's, unless it was acknowledged before it."""
        self.log.handed_back(job)
        return Outcome(job.delivery, settle=Settle.DONE if job.acknowledged else Settle.REQUEUE)

    async def lost(self, job: Job, error: ProcessLost) -> Outcome:
        """Its process died under it. Like the tasks of a lost worker it runs again, until it took `max_deaths` along."""
        if job.acknowledged:
            return await self.failed(job, WorkerLostError(*error.args))
        self.log.lost(job, error)
        return Outcome(job.delivery, settle=Settle.REQUEUE, died=True)

    async def revoked(self, job: Job, why: str) -> Outcome:
        """A job that is not run, or ended by remote control: revoked, expired or terminated (wire-format.md 6.1, 6.2)."""
        self.log.revoked(job, why)
        if signals.task_revoked.receivers:
            await signals.task_revoked.send(
                job.task,
                request=job.request,
                terminated=why == TERMINATED,
                signum=job.terminated,
                expired=why == EXPIRED,
            )
        result = self._state(job, states.REVOKED, encode_exception(TaskRevokedError(why)))
        outcome = self._outcome(job, self._stored(job, result))
        await self._never_after(job.request, outcome, result)
        return outcome

    async def refused(self, refused: Inadmissible) -> Outcome:
        """A message that can never be run goes to the dead letters.

        Its caller learns of it as a FAILURE, where Celery leaves it waiting (wire-format.md 1.11), and so do
        its chain, its errbacks and its chord.
        """
        message, request = refused.delivery.message, refused.request
        task_id = task_id_of(message)
        self.log.dead(refused.delivery, task_id, refused.reason)
        outcome = Outcome(refused.delivery, settle=Settle.REJECT, reason=refused.reason)
        about = {"message": message, "exc": refused.error}
        if not isinstance(refused.error, NotRegistered):
            await signals.task_rejected.send(self._app, **about)
        elif request is not None:
            await signals.task_unknown.send(self._app, name=request.task, id=request.id, **about)
        if task_id is None or isinstance(refused.error, UntrustedMessage):  # then the id may be another's
            return outcome
        failure = failure_of(task_id, refused.error, reply_to=message.reply_to)
        outcome.results = [failure]
        if request is not None:
            await self._failed_after(request, outcome, failure, refused.error, None)
        return outcome

    async def unsent(self, message: Message, error: Exception) -> Outcome:
        """A follow-up that can never be sent fails, and with it what waits for it."""
        failure = failure_of(str(task_id_of(message)), error, reply_to=message.reply_to)
        outcome = Outcome(Delivery(message, message.routing_key, None), [failure])
        try:
            conf = self._conf
            request = decode(message, frozenset(conf.accept_content), max_inflated=conf.max_inflated_bytes)
        except DecodeError:
            return outcome
        # The completer waits for this: what is to be stored first cannot take its turn with the outcomes.
        effects = replace(self._effects, record=self._effects.save)
        apart = Verdict(self._app, effects, self.hooks, now=self._now, log=self.log)
        await apart._failed_after(request, outcome, failure, error, None)
        return outcome

    async def _failed_after(
        self, request: Request, outcome: Outcome, failure: TaskResult, error: BaseException, text: str | None
    ) -> None:
        """What comes after a failure: the rest of the chain, the errbacks, the chord."""
        if request.chain:
            outcome.results = [*outcome.results, *failed_chain(request, failure)]
        if request.errbacks:
            errbacks = after_failure(self._app, request)
            outcome.follow = errbacks.follow
            await self._errbacks(errbacks, request, error, text, outcome)
        await self._return(request, outcome, failure)

    async def _never_after(self, request: Request, outcome: Outcome, result: TaskResult) -> None:
        """What comes after a revocation: the rest of the chain is revoked with it, the chord fails."""
        outcome.results = [*outcome.results, *failed_chain(request, result)]
        await self._return(request, outcome, result)

    async def _retried(self, job: Job, retry: Retry) -> Outcome:
        due = retry_due(retry, self._now())
        try:
            follow = retried(self._app, job.request, retry, queue=job.delivery.queue, due=due)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
            return await self.failed(job, error)
        self.log.retried(job, retry, due.timestamp() - self._now())
        text = as_text(from_user_code(retry))
        value = None if retry.exc is None else encode_exception(retry.exc)
        result = self._state(job, states.RETRY, value, text)
        await self.hooks.ended(job.task, job.request, states.RETRY, retry.exc, text)
        return self._outcome(job, self._stored(job, result), follow)

    async def _replaced(self, job: Job, replacement: Replaced) -> Outcome:
        try:
            follow = replaced(self._app, job.request, replacement)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
            return await self.failed(job, error)
        return self._outcome(job, (), follow)

    async def _ignored(self, job: Job, ignore: Ignore) -> Outcome:
        """No state is stored; a chord would wait for ever, so it fails."""
        outcome = self._outcome(job)
        await self._return(job.request, outcome, self._state(job, states.IGNORED, encode_exception(ignore)))
        return outcome

    async def _rejected(self, job: Job, reject: Reject) -> Outcome:
        self.log.rejected(job, reject)
        outcome = self._outcome(job, settle=Settle.REQUEUE if reject.requeue else Settle.REJECT)
        outcome.reason = f"rejected by the task: {reject.reason}"
        if not reject.requeue:  # as Celery 5.7 does
            failure = self._state(job, states.FAILURE, encode_exception(reject))
            outcome.results = self._stored(job, failure, failed=True)
            await self._failed_after(job.request, outcome, failure, reject, None)
        return outcome

    # --- parts ----------------------------------------------------------------------------------------------

    def _outcome(
        self,
        job: Job,
        results: Sequence[TaskResult] = (),
        follow: FollowUps | None = None,
        settle: Settle = Settle.ACK,
    ) -> Outcome:
        return Outcome(job.delivery, results, follow, Settle.DONE if job.acknowledged else settle)

    def _state(self, job: Job, state: str, value: Any, text: str | None = None) -> TaskResult:
        result = stored_state(job, state, value, text)
        if self._conf.result_extended:
            result.extra = extended(job)
        return result

    def _stored(self, job: Job, result: TaskResult, *, failed: bool = False) -> list[TaskResult]:
        return [] if is_ignored(job, self._conf, failed=failed) else [result]

    async def _errbacks(
        self,
        errbacks: Errbacks,
        request: Request,
        error: BaseException,
        text: str | None,
        outcome: Outcome,
    ) -> None:
        """Errbacks of the new style, here, when the failure is stored; their exceptions are logged."""
        if errbacks.problem is not None:
            logger.error(
                "the errbacks of %s[%s] cannot be sent", request.task, request.id, exc_info=errbacks.problem
            )
        if not errbacks.here:
            return
        for result in outcome.results:
            await self._effects.record(result)
        outcome.results = ()
        for errback in errbacks.here:
            task = self._app.require_task(errback.task)
            try:
                call = functools.partial(task.run, **errback.kwargs)
                await self.hooks.call(task, call, request, error, text, *errback.args)
            except Exception:
                logger.exception("the errback %s of %s[%s] failed", errback.task, request.task, request.id)

    async def _return(self, request: Request, outcome: Outcome, result: TaskResult) -> None:
        """Return to the chords this run is a part of; whoever brings the last part sends the body."""
        waiting = parts_of(request, result)
        while waiting:
            part = waiting.pop()
            joined = await self._effects.join(part.result, part.index)
            if joined is None:
                continue
            done = self._completed(request, part, joined)
            follow = outcome.follow or FollowUps()
            follow.add(done.follow)
            outcome.follow = follow
            outcome.results = [*outcome.results, *done.results]
            if part.result is result and done.child:
                result.children = [*(result.children or ()), done.child]
            for stand_in, errbacks in done.errbacks:
                await self._errbacks(errbacks, stand_in, done.error or ChordError(), None, outcome)
            waiting += done.parts

    def _completed(self, request: Request, part: ChordPart, joined: Sequence[TaskResult]) -> Completed:
        try:
            return completed(self._app, request, part, joined)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being sent
            return failed_body(self._app, request, part, ChordError(f"the body cannot be sent: {error}"))


def from_user_code(error: BaseException) -> BaseException:
    """The error with its traceback from the user's code on: our own frames at its top say nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("taskq.worker."):
        trace = trace.tb_next
    return error.with_traceback(trace or error.__traceback__)


def as_text(error: BaseException) -> str:
    """Its traceback, as Python prints it: there where it was raised."""
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.text
    return "".join(traceback.format_exception(error))
