"""What RabbitMQ keeps no place for: revoked ids, deaths of holders, dead letters; all of it in its own queues."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any
from uuid import uuid4

from taskq.broker_adapters.amqp.browse import Browser, Record, SharedLog
from taskq.broker_adapters.amqp.held import run_of
from taskq.broker_adapters.amqp.sender import AmqpSender
from taskq.errors import EncodeError, OperationalError, PublishErrors
from taskq.seams.broker import BrokerConfig, Queue
from taskq.wire.message import DeadLetter, Delivery, Message

log = logging.getLogger("taskq.amqp")

#: The most ids remembered in memory, and the most records kept in a log.
_REMEMBERED, _LOGGED = 50_000, 10_000
#: A death is no longer held against a message after a day.
_DEATHS_KEPT = 86_400_000  # ms

#: Characters of a reason, where the letter is too large as it is.
_LONGEST_REASON = 1000

_ID, _QUEUE, _REASON, _AT = "x-taskq-id", "x-taskq-queue", "x-taskq-reason", "x-taskq-at"
_EXCHANGE, _KEY, _RAW = "x-taskq-exchange", "x-taskq-key", "x-taskq-raw"
_EXCHANGE_OF_DEAD = "x-dead-letter-exchange"


class RecordNames:
    """The names of our own queues; `broker_transport_options["namespace"]` tells several apps of a vhost apart."""

    def __init__(self, config: BrokerConfig) -> None:
        space = config.options.get("namespace", "taskq")
        self.dead, self.revoked, self.deaths = f"{space}.dead", f"{space}.revoked", f"{space}.deaths"
        # As safe as the user's own: quorum queues where those are the default.
        quorum = any(queue.arguments.get("x-queue-type") == "quorum" for queue in config.queues())
        kind: dict[str, Any] = {"x-queue-type": "quorum"} if quorum else {}
        log = kind | {"x-max-length": _LOGGED}
        self.declarations: Mapping[str, Queue] = {
            self.dead: Queue(self.dead, arguments=kind),
            self.revoked: Queue(self.revoked, exchange_type="fanout", arguments=log),
            self.deaths: Queue(
                self.deaths, exchange_type="fanout", arguments=log | {"x-message-ttl": _DEATHS_KEPT}
            ),
        }


class RevokedRecords:
    """Revoked ids and until when."""

    def __init__(self, log: SharedLog) -> None:
        self._until: dict[str, float] = {}
        self._log = log
        log.tell(self._apply)

    async def add(self, task_ids: Sequence[str], until: float) -> None:
        """As `Broker.revoke`."""
        await self._log.write({"ids": list(task_ids), "until": until})

    async def among(self, task_ids: Sequence[str]) -> Collection[str]:
        """As `Broker.revoked`."""
        await self._log.follow(self._until.clear)
        if not self._until:
            return ()
        now = time()
        return [task_id for task_id in task_ids if self._until.get(task_id, now) > now]

    def _apply(self, record: Record) -> None:
        until = record.get("until")
        if not isinstance(until, int | float) or until <= time():
            return
        for task_id in record.get("ids") or ():
            self._until[task_id] = max(until, self._until.pop(task_id, until))
        _shorten(self._until)


class Deaths:
    """What is known of the holders of a message, by its id and retries.

    RabbitMQ tells only that a message was delivered before, whether its holder died or gave it back. So who gives
    one back writes that down (-1), and who is handed it then takes that off again (+1); blame is written on top.
    Nothing travels with the message: it stays where it is in its queue.
    """

    def __init__(self, log: SharedLog) -> None:
        self._counts: dict[str, int] = {}
        self._log = log
        log.tell(self._apply)

    async def follow(self) -> None:
        """Get to know what others wrote down."""
        await self._log.follow(self._counts.clear)

    def of(self, delivery: Delivery) -> int:
        """The deaths of one that was delivered before: as `Delivery.deaths`."""
        return max(0, 1 + self._counts.get(run_of(delivery), 0))

    async def strike(self, delivery: Delivery, count: int) -> None:
        """As `Consumer.strike`."""
        await self._write([delivery], count)

    async def given_back(self, deliveries: Iterable[Delivery]) -> None:
        """These come back in good order, and will look as if their holder had died."""
        await self._write(deliveries, -1)

    async def handed_out(self, deliveries: Iterable[Delivery]) -> None:
        """These had been given back; from now on they may see a death."""
        await self._write(deliveries, 1)

    async def _write(self, deliveries: Iterable[Delivery], step: int) -> None:
        keys = [key for delivery in deliveries if (key := run_of(delivery))]
        if keys:
            await self._log.write({"keys": keys, "step": step})

    def _apply(self, record: Record) -> None:
        for key in record.get("keys") or ():
            self._counts[key] = self._counts.pop(key, 0) + record.get("step", 0)
        _shorten(self._counts)


class Strikes:
    """The deaths of one consumer's deliveries. `unjudged` are those whose earlier holders nobody has asked for."""

    def __init__(self, deaths: Deaths) -> None:
        self._deaths = deaths
        #: Those that are blamed now.
        self.struck: set[Delivery] = set()

    async def put(self, delivery: Delivery, count: int) -> None:
        """As `Consumer.strike`."""
        await self._deaths.strike(delivery, count)
        if count > 0:
            self.struck.add(delivery)
        else:
            self.struck.discard(delivery)

    def keep(self, held: Callable[[Delivery], bool]) -> None:
        """Forget all that are not held any more."""
        if self.struck:
            self.struck = set(filter(held, self.struck))

    async def ended(self, returned: Collection[Delivery], unjudged: Collection[Delivery]) -> None:
        """These are given back. The strike stays on a run that took its process with it, and not its worker."""
        await self._take_off(_undead(returned, unjudged))

    async def unended(self, returned: Collection[Delivery], unjudged: Collection[Delivery]) -> None:
        """These return though no run of them has ended: nobody died, and a strike is taken back, too."""
        struck = [delivery for delivery in returned if delivery.deaths and delivery in self.struck]
        await self._take_off(_undead(returned, unjudged) + struck)

    async def _take_off(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self._deaths.given_back(deliveries)
        except OperationalError as error:
            log.warning("messages given back will count as deaths: %s", error)


def _undead(returned: Collection[Delivery], unjudged: Collection[Delivery]) -> list[Delivery]:
    """Those that would look as if their holder had died."""
    return [delivery for delivery in returned if not delivery.deaths and delivery not in unjudged]


class DeadLetters:
    """Messages that could not be run, in a queue of their own."""

    def __init__(self, queue: str, sender: AmqpSender, browser: Browser) -> None:
        self._queue, self._sender, self._browser = queue, sender, browser
        self._declared = sender.link.config.queue

    async def put_away(self, rejected: Sequence[tuple[Delivery, str]]) -> None:
        """To the dead-letter exchanges of their queues; where there is none, or nothing behind it, to our own letters.

        Published and confirmed, for RabbitMQ itself drops what it cannot dead-letter.
        """
        theirs = [pair for pair in rejected if _EXCHANGE_OF_DEAD in self._declared(pair[0].queue).arguments]
        try:
            failures = await self._sender.send([self._forwarded(*pair) for pair in theirs]) if theirs else {}
        except EncodeError:
            failures = dict.fromkeys(range(len(theirs)), OperationalError())
        safe = {pair[0] for index, pair in enumerate(theirs) if index not in failures}
        await self.bury(
            [
                DeadLetter(uuid4().hex, delivery.queue, reason, time(), delivery.message)
                for delivery, reason in rejected
                if delivery not in safe
            ]
        )

    def _forwarded(self, delivery: Delivery, reason: str) -> Message:
        message, arguments = delivery.message, self._declared(delivery.queue).arguments
        return replace(
            message,
            headers={**message.headers, _QUEUE: delivery.queue, _REASON: reason},
            exchange=arguments[_EXCHANGE_OF_DEAD],
            routing_key=arguments.get("x-dead-letter-routing-key", message.routing_key),
            due=None,
        )

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """As `Broker.bury`. What came to us cannot always be written again: then without its headers, or its body."""
        for written in (self._written, self._without_headers, self._without_body):
            failures, unwritten = await self._sender.send_apart([written(letter) for letter in letters])
            later = {i: error for i, error in failures.items() if isinstance(error, OperationalError)}
            if later:
                raise PublishErrors(later)
            if not failures and not unwritten:
                return
            letters = [letters[i] for i in sorted({*failures, *unwritten})]
        raise OperationalError(f"dead letters cannot be kept: {next(iter(failures.values()), None)}")

    def _without_headers(self, letter: DeadLetter) -> Message:
        body = letter.raw if letter.message is None else letter.message.body
        reason = letter.reason[:_LONGEST_REASON]
        return self._written(replace(letter, message=Message({}, body), reason=reason))

    def _without_body(self, letter: DeadLetter) -> Message:
        bare = self._without_headers(letter)
        bare.headers[_REASON] += f"; its body of {len(bare.body)} bytes is not taken any more"
        return replace(bare, body=b"")

    async def newest(self, limit: int) -> list[DeadLetter]:
        """As `Broker.dead`."""
        letters = [_letter(message) for message in await self._browser.read(self._queue)]
        letters.sort(key=lambda letter: letter.at)  # a copy in place of a worn one stands behind younger ones
        return letters[: -limit - 1 : -1] if limit > 0 else []

    async def revive(self, ids: Sequence[str]) -> list[DeadLetter]:
        """As `Broker.revive`."""
        wanted = set(ids)
        if not wanted:
            return []
        found = await self._browser.read(self._queue, lambda message: message.headers.get(_ID) in wanted)
        return [_letter(message) for message in found if message.headers.get(_ID) in wanted]

    def _written(self, letter: DeadLetter) -> Message:
        message = letter.message or Message({}, letter.raw, "application/octet-stream", "binary")
        headers: dict[str, Any] = {
            **message.headers,
            _ID: letter.id,
            _QUEUE: letter.queue,
            _REASON: letter.reason,
            _AT: letter.at,
            _EXCHANGE: message.exchange,
            _KEY: message.routing_key,
            _RAW: letter.message is None,
        }
        return replace(
            message, headers=headers, exchange="", routing_key=self._queue, delivery_mode=2, due=None
        )


def _letter(message: Message) -> DeadLetter:
    ours = {_ID, _QUEUE, _REASON, _AT, _EXCHANGE, _KEY, _RAW}
    about = {key: value for key, value in message.headers.items() if key in ours}
    headers = {key: value for key, value in message.headers.items() if key not in ours}
    queue = str(about.get(_QUEUE, ""))
    at = about.get(_AT, 0.0)
    raw = about.get(_RAW, False)
    return DeadLetter(
        id=str(about.get(_ID, "")),
        queue=queue,
        reason=str(about.get(_REASON, "put into the dead letters by another program")),
        at=float(at) if isinstance(at, int | float) else 0.0,
        message=None
        if raw
        else replace(
            message,
            headers=headers,
            exchange=str(about.get(_EXCHANGE, "")),
            routing_key=str(about.get(_KEY, queue)),
        ),
        raw=message.body if raw else b"",
    )


def _shorten(remembered: dict[str, Any]) -> None:
    while len(remembered) > _REMEMBERED:
        del remembered[next(iter(remembered))]
