"""The effects: what runs came to is stored, published and settled, in this order, in batches.

Batches form by themselves: while one flush is on its way, the next piles up. A crash between two of the steps
repeats work and never loses it.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from taskq.canvas.signature import new_id
from taskq.clock import now
from taskq.errors import EncodeError, OperationalError, StoreError, Unroutable
from taskq.run.outcome import FollowUps, Outcome, Settle, name_of
from taskq.seams.broker import Broker, Consumer
from taskq.seams.publisher import failures_of
from taskq.seams.retry import retry_until_done
from taskq.seams.store import ResultStore, TaskResult
from taskq.states import READY
from taskq.wire.message import DeadLetter, Delivery, Message
from taskq.wire.protocol import task_id_of
from taskq.worker.effects.effects import Effects
from taskq.worker.intake.custody import Custody
from taskq.worker.run.states import failure_of, unhandled

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pending:
    """One thing to do, in order: states to store, then perhaps the end of a delivery or an early ack."""

    results: Sequence[TaskResult] = ()
    outcome: Outcome | None = None
    acknowledge: Delivery | None = None
    done: "asyncio.Future[None] | None" = None


class Completer:
    """Takes outcomes and states, and carries them out.

    Args:
        broker, store: opened.
        consumer: the one that made the deliveries.
        custody: told of every delivery that is about to be settled, and that is.
        lost: asked before a batch, tells which of the deliveries are no longer ours: their outcomes are dropped.
        unsent: what comes of a message that can never be published.
        sending, sent: told of messages before they are published, and of those that were.
    """

    def __init__(
        self,
        broker: Broker,
        store: ResultStore,
        consumer: Consumer,
        *,
        custody: Custody,
        lost: Callable[[Sequence[Delivery]], Awaitable[set[Delivery]]],
        unsent: Callable[[Message, Exception], Awaitable[Outcome]],
        sending: Callable[[Sequence[Message]], Awaitable[None]],
        sent: Callable[[Sequence[Message]], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._store = store
        self._consumer = consumer
        self._custody = custody
        self._lost = lost
        self._unsent = unsent
        self._sending = sending
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._pile: list[_Pending] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def effects(self) -> Effects:
        """What runs may ask for."""
        return Effects(self.record, self.report, self.acknowledge, self.join, self.save)

    # --- what runs hand in ----------------------------------------------------------------------------------

    def put(self, outcome: Outcome) -> None:
        """Carry out an outcome, in turn."""
        self._add(_Pending(outcome.results, outcome))

    def record(self, result: TaskResult) -> Awaitable[None]:
        """Store one state, in turn; the awaitable is done when it is stored."""
        done = self._loop.create_future()
        self._add(_Pending([result], done=done))
        return done

    def report(self, result: TaskResult) -> Awaitable[None] | None:
        """The same from any thread; in one without our loop there is nothing to await."""
        if threading.get_ident() == self._thread:
            return self.record(result)
        self._loop.call_soon_threadsafe(self._add, _Pending([result]))
        return None

    def acknowledge(self, delivery: Delivery) -> Awaitable[None]:
        """Settle a delivery before its run (`acks_late=False`); done when the broker has it."""
        done = self._loop.create_future()
        self._add(_Pending(acknowledge=delivery, done=done))
        return done

    async def save(self, result: TaskResult) -> None:
        """Store one state now: for what is decided while outcomes are carried out."""
        await self._save([result])

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        """Have a part return to its chord; see `ResultStore.join`."""
        return await retry_until_done("join a chord", lambda: self._store.join(part, index), StoreError)

    def _add(self, entry: _Pending) -> None:
        self._pile.append(entry)
        self._idle.clear()
        self._wake.set()

    # --- carrying out ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry out what comes in, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pile:
                batch, self._pile = self._pile, []
                await self._flush(batch)
            self._idle.set()

    async def drain(self) -> None:
        """Wait until everything handed in so far is carried out."""
        await self._idle.wait()

    async def _flush(self, batch: Sequence[_Pending]) -> None:
        ended = [entry.outcome for entry in batch if entry.outcome is not None]
        lost = await self._lost([outcome.delivery for outcome in ended])
        if lost:
            batch = [entry for entry in batch if entry.outcome is None or entry.outcome.delivery not in lost]
            # They are their new holders': this only tells the consumer that it has room for others.
            await retry_until_done(
                "let go of deliveries", lambda: self._consumer.settle(requeue=list(lost)), OperationalError
            )
        await self._carry_out(batch)
        self._custody.release([outcome.delivery for outcome in ended])
        for entry in batch:
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    async def _carry_out(self, batch: Sequence[_Pending]) -> None:
        """In order; where that cannot be, each alone, so that one poisoned outcome is put away and ends nobody else."""
        try:
            await self._take_effect(batch)
        except Exception as error:  # noqa: BLE001 - logged and dealt with where it is one entry's
            if len(batch) > 1:
                for entry in batch:
                    await self._carry_out([entry])
                return
            await self._put_away(batch[0], error)

    async def _put_away(self, entry: _Pending, error: Exception) -> None:
        """An entry that has no effect alone either. If the same happens to this, it is not the entry's fault."""
        logger.error("could not carry out what a run came to", exc_info=error)
        if entry.outcome is not None:
            away = unhandled(entry.outcome.delivery, error)
            await self._take_effect([_Pending(away.results, away)])
        elif entry.done is not None and not entry.done.done():
            entry.done.set_exception(error)

    async def _take_effect(self, batch: Sequence[_Pending]) -> None:
        outcomes = [entry.outcome for entry in batch if entry.outcome is not None]
        await self._save([result for entry in batch for result in entry.results])
        await self._send([_named(outcome) for outcome in outcomes if outcome.follow is not None])
        for outcome in outcomes:
            outcome.follow = None  # sent, whatever comes
        early = [entry.acknowledge for entry in batch if entry.acknowledge is not None]
        await self._settle(early, outcomes)

    async def _save(self, results: Sequence[TaskResult]) -> None:
        if not results:
            return
        try:
            await retry_until_done("store results", lambda: self._store.save(results), StoreError)
        except EncodeError:
            for result in results:
                await self._save_alone(result)

    async def _save_alone(self, result: TaskResult) -> None:
        """After a batch that the serializer refused: only the result at fault becomes a FAILURE."""
        try:
            await retry_until_done("store a result", lambda: self._store.save([result]), StoreError)
        except EncodeError as error:
            logger.error("the state %s of %s cannot be stored: %s", result.state, result.task_id, error)  # noqa: TRY400 - a traceback says no more
            if result.state in READY:  # else its task goes on
                failure = failure_of(result.task_id, error, like=result)
                await retry_until_done("store a result", lambda: self._store.save([failure]), StoreError)

    async def _send(self, follows: Sequence[FollowUps]) -> None:
        """A chord is begun before its members are sent, and has ended when its body is safe."""
        begun = {chord: size for follow in follows for chord, size in follow.begun.items()}
        if begun:
            await retry_until_done("begin chords", lambda: self._store.begin_chords(begun), StoreError)
        await self._publish([message for follow in follows for message in follow.messages])
        ended = [chord for follow in follows for chord in follow.ended]
        if ended:
            await retry_until_done("end chords", lambda: self._store.end_chords(ended), StoreError)

    async def _publish(self, messages: list[Message]) -> None:
        if messages:
            await self._sending(messages)
            await retry_until_done("publish", lambda: self._attempt(messages), OperationalError)

    async def _attempt(self, messages: list[Message]) -> None:
        """Publish follow-ups. What was accepted is never sent twice; what never can be is put away."""
        failures = await failures_of(self._broker, messages)
        accepted = [message for i, message in enumerate(messages) if i not in failures]
        failed = [(messages[i], error) for i, error in failures.items()]
        messages[:] = [message for message, _ in failed]
        if accepted:
            await self._sent(accepted)
        hopeless = [
            (message, error) for message, error in failed if isinstance(error, Unroutable | EncodeError)
        ]
        if hopeless:
            await self._give_up(hopeless)
        again = [
            (message, error) for message, error in failed if not isinstance(error, Unroutable | EncodeError)
        ]
        messages[:] = [message for message, _ in again]
        for _, error in again:
            raise error

    async def _give_up(self, messages: Sequence[tuple[Message, Exception]]) -> None:
        """Those without a queue become dead letters; all that waits for them learns of it."""
        letters = []
        for message, error in messages:
            logger.error("dead       %s  cannot be sent: %s", task_id_of(message), error)
            if not isinstance(error, EncodeError):
                letters.append(DeadLetter(new_id(), message.routing_key, str(error), now(), message))
        if letters:
            await retry_until_done("bury messages", lambda: self._broker.bury(letters), OperationalError)
        for message, error in messages:
            outcome = await self._unsent(message, error)
            await self._save(outcome.results)
            if outcome.follow is not None:
                await self._send([outcome.follow])

    async def _settle(self, early: list[Delivery], outcomes: Sequence[Outcome]) -> None:
        ack = early + [outcome.delivery for outcome in outcomes if outcome.settle is Settle.ACK]
        requeue = [outcome.delivery for outcome in outcomes if outcome.settle is Settle.REQUEUE]
        reject = [(o.delivery, _written(o.reason)) for o in outcomes if o.settle is Settle.REJECT]
        if ack or requeue or reject:
            self._custody.leave([outcome.delivery for outcome in outcomes])
            await retry_until_done(
                "settle",
                lambda: self._consumer.settle(ack=ack, requeue=requeue, reject=reject),
                OperationalError,
            )


def _written(reason: str) -> str:
    """One line that can be written anywhere: half a surrogate pair in it, as in names of files, cannot."""
    return " ".join(reason.encode("utf-8", "backslashreplace").decode().splitlines())


def _named(outcome: Outcome) -> FollowUps:
    """What follows a run, named after its message: done again after a crash, it is published only once."""
    follow = outcome.follow or FollowUps()
    if outcome.delivery.serial:
        name = name_of(outcome.delivery)
        names = [f"{name}:{index}" for index in range(len(follow.messages))]
        for name, message in zip(names, follow.messages, strict=True):
            message.once = message.once or name
        outcome.delivery.once = names
    return follow
