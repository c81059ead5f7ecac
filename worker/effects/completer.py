"""The completer: carries out what runs came to. It alone stores, sends and settles in the worker, but for parking.

An outcome is a list of what remains to be done. It goes from stage to stage: parts return to their chords, states are
stored, observers and users' code are told, follow-ups are sent, the delivery is settled. Each stage works in
batches. A crash between two of them repeats work and never loses it.

Parts return before their results are stored: the one that completes a chord names the chord's body among its
children, and a SUCCESS is stored once.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import cast

from taskq.app import TaskQ
from taskq.errors import OperationalError
from taskq.run.decide import decide, decide_inadmissible, decide_unhandled
from taskq.run.ends import End, Failed, Inadmissible
from taskq.run.hooks import Hooks
from taskq.run.outcome import News, Outcome, Settle
from taskq.seams.retry import retry_until_done
from taskq.wire.message import Delivery
from taskq.wire.result import TaskResult
from taskq.worker.effects.entries import EarlyAck, Links, Record
from taskq.worker.effects.sending import Sending
from taskq.worker.effects.stage import Later, Stage
from taskq.worker.effects.storing import Storing
from taskq.worker.intake.custody import Custody
from taskq.worker.intake.leases import Leases
from taskq.worker.run.job import Job, JobState
from taskq.worker.run.observers import Observers

logger = logging.getLogger(__name__)

#: So many batches that return parts, or that send, may be on their way at once: a slow one holds up nobody else.
SIDE_BY_SIDE = 8


class Completer:
    """Takes outcomes and states, and carries them out.

    Args:
        app: whose settings and tasks decide what follows.
        links: broker, store, and the consumer that made the deliveries.
        custody: told of every delivery that is about to be settled, and that is.
        leases: outcomes of deliveries that are no longer ours are dropped.
        observers, hooks: told what became of a run, when it is stored.
        now: the wall clock.
    """

    def __init__(
        self,
        app: TaskQ,
        links: Links,
        custody: Custody,
        leases: Leases,
        *,
        observers: Observers,
        hooks: Hooks,
        now: Callable[[], float],
    ) -> None:
        self._app = app
        self._consumer = links.consumer
        self._custody = custody
        self._leases = leases
        self._observers = observers
        self._hooks = hooks
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._storing = Storing(links.store, app, now)
        self._sending = Sending(links, app, now)
        self._broke: asyncio.Future[None] = self._loop.create_future()
        ends = (self._put_away, self._part_ended)
        self._joins: Stage[Outcome] = Stage(self._join, *ends, width=SIDE_BY_SIDE)
        self._saves: Stage[Outcome | Record] = Stage(self._save, *ends)
        self._sends: Stage[Outcome] = Stage(self._send, *ends, width=SIDE_BY_SIDE)
        self._settles: Stage[Outcome | EarlyAck] = Stage(self._settle, *ends)
        self._joins_later = Later(self._return_parts, *ends)
        self._sends_later = Later(self._send_messages, *ends)
        self._calls: set[asyncio.Task[None]] = set()
        self._turns: dict[Outcome, asyncio.Future[Outcome]] = {}
        self._poisoned: set[Delivery] = set()
        self._open = 0
        self._drained: asyncio.Future[None] | None = None

    # --- what runs hand in ----------------------------------------------------------------------------------

    def decided(self, job: Job, end: End) -> Outcome:
        """What comes of a job that ended like this."""
        if job.state is not JobState.ENDED:
            job.enter(JobState.ENDED)
        outcome = decide(self._app, job, end, self._now())
        news = outcome.news
        if news is not None and self._hooks.wants(news):
            outcome.hooks = news
        return outcome

    def end(self, job: Job, end: End) -> None:
        """Carry that out, for a job that does not run."""
        self.put(self.decided(job, end))

    def refuse(self, message: Inadmissible) -> None:
        """Put a message away that can never be run."""
        try:
            outcome = decide_inadmissible(self._app, message, self._now())
        except Exception as error:
            logger.exception("could not follow up a message of queue %s", message.delivery.queue)
            outcome = decide_unhandled(message.delivery, error, self._now())
        if outcome.news is not None and self._hooks.wants(outcome.news):
            outcome.hooks = outcome.news
        self.put(outcome)

    def put(self, outcome: Outcome) -> None:
        """Carry out an outcome."""
        self._open += 1
        self._forward(outcome)

    async def conclude(self, outcome: Outcome) -> None:
        """The same; returns when the users' code that belongs to the end of a run was called, in this very task."""
        turn = self._turns[outcome] = self._loop.create_future()
        self.put(outcome)
        with suppress(asyncio.CancelledError):  # then its calls are made beside, if it is not its turn yet
            await turn
        if not turn.cancelled():
            await self._call(turn.result())

    def record(self, result: TaskResult) -> Awaitable[None]:
        """Store one state, in turn; the awaitable is done when it is stored."""
        done = self._loop.create_future()
        self._add(Record([result], done))
        return done

    def report(self, result: TaskResult) -> Awaitable[None] | None:
        """The same from any thread; in one without our loop there is nothing to await."""
        if threading.get_ident() == self._thread:
            return self.record(result)
        self._loop.call_soon_threadsafe(self._add, Record([result]))
        return None

    def _add(self, record: Record) -> None:
        self._open += 1
        self._saves.put(record)

    def acknowledge(self, delivery: Delivery) -> Awaitable[None]:
        """Settle a delivery before its run (`acks_late=False`); done when the broker has it."""
        done = self._loop.create_future()
        self._open += 1
        self._settles.put(EarlyAck(delivery, done))
        return done

    # --- its life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; raises what ended a stage."""
        try:
            await self._broke
        finally:
            for stage in (self._joins, self._saves, self._sends, self._settles):
                stage.close()
            self._joins_later.close()
            self._sends_later.close()
            for call in self._calls:
                call.cancel()

    async def drain(self) -> None:
        """Wait until everything handed in so far is carried out."""
        while self._open:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _end(self, count: int = 1) -> None:
        self._open -= count
        if not self._open and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _part_ended(self, error: BaseException) -> None:
        if not self._broke.done() and not isinstance(error, asyncio.CancelledError):
            self._broke.set_exception(error)

    def _put_away(self, item: Outcome | Record | EarlyAck, error: Exception) -> None:
        """One that has no effect alone either. If that happens to what is made of it, it is not its fault."""
        logger.error("could not carry out what a run came to", exc_info=error)
        if not isinstance(item, Outcome):
            if item.done is not None and not item.done.done():
                item.done.set_exception(error)
            self._end()
            return
        if item.delivery in self._poisoned:
            raise error
        self._poisoned.add(item.delivery)
        away = decide_unhandled(item.delivery, error, self._now())
        if item.settle is Settle.DONE:
            away.settle = Settle.DONE
        self._replace(item, away)

    # --- from stage to stage --------------------------------------------------------------------------------

    def _forward(self, outcome: Outcome) -> None:
        """To the stage of what is to be done next."""
        if outcome.problems:
            _log(outcome)
        if outcome.parts:
            self._joins.put(outcome)
        elif outcome.results:
            self._saves.put(outcome)
        else:
            self._go_on(outcome)

    def _go_on(self, outcome: Outcome) -> None:
        """Its states are stored: what else is there to be done?"""
        news = outcome.news
        if news is not None:
            outcome.news = None
            self._observers.tell(news.event, news.about)
        if self._turns or outcome.hooks or outcome.errbacks or outcome.postrun:
            self._call_users(outcome)
        else:
            self._over_to_broker(outcome)

    def _over_to_broker(self, outcome: Outcome) -> None:
        """All is told: what is left is to be sent, or settled."""
        if outcome.follow is not None or outcome.unsendable:
            self._sends.put(outcome)
        else:
            self._settles.put(outcome)

    def _replace(self, outcome: Outcome, by: Outcome) -> None:
        """Go on with another outcome in its place."""
        if (turn := self._turns.pop(outcome, None)) is not None:
            self._turns[by] = turn
        by.postrun = outcome.postrun
        self._forward(by)

    def _unwritten(self, outcome: Outcome, error: Exception) -> None:
        """Its result can never be stored: then it is a failure, before anybody was told of a success."""
        job: Job = cast("News", outcome.news).about[0]
        failed = type(error)(f"the result of {job.request.task} cannot be stored: {error}")
        self._replace(outcome, self.decided(job, Failed(failed)))

    async def _ours(self, batch: "list[Outcome]") -> "list[Outcome]":
        """Without the outcomes of deliveries whose lease was lost: others have them."""
        if not self._leases.doubtful:
            return batch
        lost = await self._leases.lost([outcome.delivery for outcome in batch])
        if lost:
            # They are their new holders': this only tells the consumer that it has room for others.
            await retry_until_done(
                "let go of deliveries", lambda: self._consumer.settle(requeue=list(lost)), OperationalError
            )
        for outcome in batch:
            if outcome.delivery in lost:
                self._custody.release([outcome.delivery])
                if (turn := self._turns.pop(outcome, None)) is not None:
                    turn.cancel()
                self._end()
        return [outcome for outcome in batch if outcome.delivery not in lost]

    # --- the stages -----------------------------------------------------------------------------------------

    async def _join(self, batch: list[Outcome]) -> None:
        self._joins_later.add(await self._return_parts(await self._ours(batch)))

    async def _return_parts(self, batch: list[Outcome]) -> list[Outcome]:
        stuck, unwritten = await self._storing.join(batch)
        for outcome in batch:
            if outcome in unwritten:
                self._unwritten(outcome, unwritten[outcome])
            elif outcome not in stuck:
                self._forward(outcome)
        return stuck

    async def _save(self, batch: list[Outcome | Record]) -> None:
        if self._leases.doubtful:
            records = [item for item in batch if type(item) is Record]
            batch = [*records, *await self._ours([item for item in batch if type(item) is Outcome])]
        unwritten = await self._storing.keep(batch)
        for item in batch:
            item.results = ()
            if type(item) is Record:
                _resolve(item.done)
                self._end()
            elif unwritten and item in unwritten:
                self._unwritten(item, unwritten[item])
            else:
                self._go_on(item)

    def _call_users(self, outcome: Outcome) -> None:
        """Users' code is called in the task of its run, where that waits for its turn, else in one beside."""
        turn = self._turns.pop(outcome, None)
        if turn is not None and not turn.done():
            turn.set_result(outcome)
            return
        if not outcome.calls:
            self._over_to_broker(outcome)
            return
        call = self._loop.create_task(self._call(outcome))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, outcome: Outcome) -> None:
        for errback in outcome.errbacks:
            await self._hooks.errback(self._app.require_task(errback.errback.task), errback)
        if outcome.hooks is not None:
            await self._hooks.tell(outcome.hooks, self._app)
        if outcome.postrun is not None:
            await self._hooks.postrun(outcome.postrun)
        outcome.errbacks, outcome.hooks, outcome.postrun = (), None, None
        self._over_to_broker(outcome)

    async def _send(self, batch: list[Outcome]) -> None:
        self._sends_later.add(await self._send_messages(await self._ours(batch)))

    async def _send_messages(self, batch: list[Outcome]) -> list[Outcome]:
        stuck = await self._sending.attempt(batch)
        for outcome in batch:
            if outcome not in stuck:
                self._forward(outcome)
        return stuck

    async def _settle(self, batch: list[Outcome | EarlyAck]) -> None:
        over, ack, requeue, reject = _by_end(batch)
        if ack or requeue or reject:
            self._custody.leave(over)
            await retry_until_done(
                "settle",
                lambda: self._consumer.settle(ack=ack, requeue=requeue, reject=reject),
                OperationalError,
            )
        self._custody.release(over)
        if self._poisoned:
            self._poisoned.difference_update(over)
        if len(over) < len(batch):
            for item in batch:
                if type(item) is EarlyAck:
                    _resolve(item.done)
        self._end(len(batch))


def _by_end(
    batch: Sequence[Outcome | EarlyAck],
) -> tuple[list[Delivery], list[Delivery], list[Delivery], list[tuple[Delivery, str]]]:
    """Deliveries that are over; to acknowledge, to give back, and to put away with a reason."""
    over: list[Delivery] = []
    ack: list[Delivery] = []
    requeue: list[Delivery] = []
    reject: list[tuple[Delivery, str]] = []
    for item in batch:
        if type(item) is EarlyAck:
            ack.append(item.delivery)
            continue
        over.append(item.delivery)
        if item.settle is Settle.ACK:
            ack.append(item.delivery)
        elif item.settle is Settle.REQUEUE:
            requeue.append(item.delivery)
        elif item.settle is Settle.REJECT:
            reject.append((item.delivery, _written(item.reason)))
    return over, ack, requeue, reject


def _log(outcome: Outcome) -> None:
    for text, error in outcome.problems:
        logger.error(text, exc_info=error)
    outcome.problems = ()


def _resolve(done: "asyncio.Future[None] | None") -> None:
    if done is not None and not done.done():
        done.set_result(None)


def _written(reason: str) -> str:
    """One line that can be written anywhere: half a surrogate pair in it, as in names of files, cannot."""
    return " ".join(reason.encode("utf-8", "backslashreplace").decode().splitlines())
