"""What outcomes send: callbacks, steps of chains, errbacks, retries, bodies of chords; and dead letters."""

import logging
from collections.abc import Callable, Mapping, Sequence

from taskq.app import TaskQ
from taskq.canvas.signature import new_id
from taskq.errors import EncodeError, OperationalError, Refused, StoreError, Unroutable
from taskq.run.decide import decide_unsent
from taskq.run.outcome import FollowUps, Outcome, name_of
from taskq.seams.publisher import announce_before, failures_of
from taskq.wire.message import DeadLetter, Message
from taskq.wire.protocol import task_id_of
from taskq.worker.effects.entries import Links

logger = logging.getLogger("taskq.worker")

#: A message that meets one of these will never be taken; all other errors mean "not now".
NEVER = (Unroutable, EncodeError, Refused)


class Sending:
    """The broker's side of outcomes."""

    def __init__(self, links: Links, app: TaskQ, now: Callable[[], float]) -> None:
        self._broker = links.broker
        self._store = links.store
        self._app = app
        self._now = now

    async def attempt(self, batch: Sequence[Outcome]) -> list[Outcome]:
        """Send what these have to send; tells for which that is not possible now.

        A chord is begun before its members are sent, and has ended when its body is safe. What was accepted is never
        sent twice. What never will be is put away, and all that waits for it is added to its outcome.
        """
        stuck: dict[Outcome, Exception] = {}
        await self._announce(batch)
        await self._begin(batch, stuck)
        await self._publish([outcome for outcome in batch if outcome not in stuck], stuck)
        await self._finish([outcome for outcome in batch if outcome not in stuck], stuck)
        for text in {str(error) for error in stuck.values()}:
            logger.warning("could not publish, trying again: %s", text)
        return list(stuck)

    async def _announce(self, batch: Sequence[Outcome]) -> None:
        """Tell of new messages, and name them after what they follow: done again after a crash, they are sent once."""
        fresh: list[Message] = []
        for outcome in batch:
            if outcome.follow is not None:
                new = outcome.follow.messages[outcome.follow.announced :]
                outcome.follow.announced = len(outcome.follow.messages)
                _name(outcome, new)
                fresh += new
        if fresh:
            await announce_before(fresh, self._app.conf.security_secrets)

    async def _begin(self, batch: Sequence[Outcome], stuck: dict[Outcome, Exception]) -> None:
        beginning = [(o, o.follow) for o in batch if o.follow is not None and o.follow.begun]
        begun = {chord: size for _, follow in beginning for chord, size in follow.begun.items()}
        if not begun:
            return
        try:
            await self._store.begin_chords(begun)
        except (StoreError, Refused) as error:
            if len(beginning) > 1:  # perhaps one of them alone is at fault
                for outcome, _ in beginning:
                    await self._begin([outcome], stuck)
                return
            [(outcome, follow)] = beginning
            if isinstance(error, StoreError):
                stuck[outcome] = error
                return
            self._take_off(outcome, follow, dict.fromkeys(range(follow.announced), error), stuck)
        for _, follow in beginning:
            follow.begun = {}

    async def _publish(self, batch: Sequence[Outcome], stuck: dict[Outcome, Exception]) -> None:
        sending = [(o, o.follow) for o in batch if o.follow is not None and o.follow.announced]
        messages = [message for _, follow in sending for message in follow.messages[: follow.announced]]
        if not messages:
            return
        failures = await failures_of(self._broker, messages)
        at = 0
        for outcome, follow in sending:
            count = follow.announced
            own = {index: failures[at + index] for index in range(count) if at + index in failures}
            self._take_off(outcome, follow, own, stuck)
            at += count
        accepted = [message for index, message in enumerate(messages) if index not in failures]
        if accepted:
            await self._app.published(accepted)

    def _take_off(
        self,
        outcome: Outcome,
        follow: FollowUps,
        failures: Mapping[int, Exception],
        stuck: dict[Outcome, Exception],
    ) -> None:
        """What was accepted, and what never will be; the rest is for later."""
        tried, follow.messages, follow.announced = follow.messages, follow.messages[follow.announced :], 0
        kept = [index for index, error in failures.items() if not isinstance(error, NEVER)]
        for index, error in failures.items():
            if isinstance(error, NEVER):
                self._give_up(outcome, tried[index], error)
        if kept:
            stuck[outcome] = failures[kept[0]]
            follow.messages, follow.announced = (
                [*(tried[index] for index in kept), *follow.messages],
                len(kept),
            )

    def _give_up(self, outcome: Outcome, message: Message, error: Exception) -> None:
        """It becomes a dead letter, unless it cannot be written at all; all that waits for it learns of it."""
        logger.error("dead       %s  cannot be sent: %s", task_id_of(message), error)
        if not isinstance(error, EncodeError):
            outcome.unsendable = [*outcome.unsendable, (message, str(error))]
        outcome.add(decide_unsent(self._app, message, error, self._now()))

    async def _finish(self, batch: Sequence[Outcome], stuck: dict[Outcome, Exception]) -> None:
        """What comes behind the messages: dead letters, and the end of chords."""
        dead = [(outcome, letter) for outcome in batch for letter in outcome.unsendable]
        ended = [chord for outcome in batch if outcome.follow for chord in outcome.follow.ended]
        try:
            if dead:
                await self._broker.bury([self._letter(*letter) for _, letter in dead])
            for outcome, _ in dead:
                outcome.unsendable = ()
            if ended:
                await self._store.end_chords(ended)
        except (OperationalError, StoreError) as error:
            stuck.update(dict.fromkeys(batch, error))
            return
        for outcome in batch:
            if outcome.follow is not None:
                outcome.follow.ended = []
                outcome.follow = outcome.follow if outcome.follow.messages else None

    def _letter(self, message: Message, reason: str) -> DeadLetter:
        return DeadLetter(new_id(), message.routing_key, reason, self._now(), message)


def _name(outcome: Outcome, messages: Sequence[Message]) -> None:
    delivery = outcome.delivery
    if not delivery.serial or not messages:
        return
    name, names = name_of(delivery), list(delivery.once)
    for message in messages:
        names.append(f"{name}:{len(names)}")
        message.once = message.once or names[-1]
    delivery.once = names
