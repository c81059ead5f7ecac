"""The embedded broker: one SQLite file, many processes of one host, no server. Safety: see `taskq.broker_adapters.sqlite.file`.

URL: sqlite:///relative.db or sqlite:////absolute.db; `?synchronous=normal` publishes without waiting for the
disk (a power cut may then lose what was published last; a crash of the process never does).
"""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import ClassVar, Final, TypeVarTuple

from taskq.broker_adapters.sqlite import queues as queues_sql
from taskq.broker_adapters.sqlite.bus import SCHEMA as BUS_SCHEMA
from taskq.broker_adapters.sqlite.bus import SqliteBus
from taskq.broker_adapters.sqlite.file import DURABLE, READ, WRITE, Failure, SqliteFile
from taskq.broker_adapters.sqlite.queues import Letter, MessageRow, Outgoing
from taskq.broker_adapters.sqlite.wake import WakeSocket
from taskq.clock import now
from taskq.errors import BrokerFull, DecodeError, OperationalError
from taskq.seams.broker import ANY_SIZE, Broker, BrokerConfig, Consumer, Features, hand_out
from taskq.seams.exchanges import address, raise_refused
from taskq.seams.records import Retention
from taskq.seams.retry import Backoff
from taskq.wire.envelope import dumps, loads
from taskq.wire.message import DeadLetter, Delivery, Message, id_of

Ts = TypeVarTuple("Ts")

logger = logging.getLogger(__name__)

#: What those who wait for messages listen to.
MESSAGES: Final = "messages"
#: Seconds between two looks at the file while nobody tells of anything.
LOOK: Final = 0.5


def refuse(failure: Failure) -> OperationalError:
    return BrokerFull(failure.text) if failure.full else OperationalError(failure.text)


class SqliteConsumer(Consumer):
    """Receives from some queues of a file; see `taskq.seams.broker.Consumer`.

    The tag of a delivery is (the consumer's number when it was claimed, the message's number).
    """

    def __init__(
        self, file: SqliteFile, queues: Sequence[str], prefetch: int, lease: float, retention: Retention
    ) -> None:
        self._file = file
        self._retention = retention
        self._queues = deque(dict.fromkeys(queues))
        self._prefetch = prefetch
        self._lease = lease
        self._number = 0
        # Up to which change of the revoked ids they are known, and their ends; None: they are not.
        self._change = -1
        self._ends: dict[str, float] | None = None
        self._held: set[Delivery] = set()
        self._kept: deque[Delivery] = deque()
        self._unreadable: list[tuple[int, str]] = []
        self._claiming: asyncio.Task[None] | None = None
        self._closed = False
        self._pauses = Backoff()
        self._news = asyncio.Event()
        self._listener = WakeSocket(file.wake_folder, MESSAGES, self._news.set)

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        while not self._closed:
            self._news.clear()
            if not self._kept and (room := min(limit, self._prefetch - len(self._held))) > 0:
                await self._claim_once(room, max_bytes)
            if self._kept:
                return hand_out(self._kept, limit, max_bytes)
            await self._wait()
        return []

    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        acked, back = self._still_held(ack), self._still_held(requeue)
        buried = [(one, reason) for one, reason in reject if one in self._held]
        gone = [*acked, *back, *(one for one, _ in buried)]
        if gone:
            ending = queues_sql.Settlement(
                bounds(self._retention),
                numbers(acked),
                numbers(back),
                [(one.tag[1], reason) for one, reason in buried],
                [name for one in acked for name in one.once],
            )
            await self._end(gone, queues_sql.settle, ending)

    async def strike(self, delivery: Delivery, count: int = 1) -> None:
        if delivery in self._held:
            await self._file.run(queues_sql.strike, delivery.tag[1], count)

    async def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        parked = [(one, due) for one, due in deliveries if one in self._held]
        if parked:
            await self._end(
                [one for one, _ in parked],
                queues_sql.park,
                [(due, one.tag[1], id_of(one.message)) for one, due in parked],
            )

    async def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._news.set()

    async def subscribe(self, queues: Sequence[str]) -> None:
        self._queues = deque(dict.fromkeys(queues))
        self._news.set()

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        if self._held:
            self._renumber(await self._file.run(queues_sql.keep_lease, self._number, self._lease))
        return [delivery for delivery in held if delivery.tag[0] != self._number]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._news.set()
        self._listener.close()
        if self._claiming is not None:
            with suppress(OperationalError):
                await self._claiming
        self._forget()
        try:
            await self._file.run(queues_sql.give_back, self._number, topic=MESSAGES)
        except OperationalError as error:
            logger.warning("what is held comes back when its lease is over: %s", error)

    async def _claim_once(self, room: int, max_bytes: int) -> None:
        """Claim, or wait for the claim that a cancelled `receive` left behind."""
        claiming = self._claiming = self._claiming or asyncio.ensure_future(self._claim(room, max_bytes))
        try:
            await asyncio.shield(claiming)
        except OperationalError as error:
            self._file.tell_outage(error)
            await asyncio.sleep(self._pauses.next())
        else:
            self._pauses.reset()
        finally:
            if claiming.done():
                self._claiming = None

    async def _claim(self, room: int, max_bytes: int) -> None:
        self._queues.rotate(-1)
        names = tuple(self._queues)
        claimant = queues_sql.Claimant(self._number, self._lease, self._change)
        claimed = await self._file.run(queues_sql.claim, claimant, names, room, max_bytes)
        self._renumber(claimed.claimant.number)
        self._learn(claimed)
        for queue, row in claimed.rows:
            self._keep(queue, row)
        await self._bury_unreadable()

    def _learn(self, claimed: queues_sql.ClaimedRows) -> None:
        """What was revoked when these were claimed."""
        if claimed.claimant.change != self._change:
            self._change, self._ends = claimed.claimant.change, claimed.revoked

    @property
    def revoked(self) -> Collection[str] | None:
        if self._ends is None:
            return None
        time = now()
        return {task_id for task_id, end in self._ends.items() if end > time}

    def _keep(self, queue: str, row: MessageRow) -> None:
        try:
            message = loads(row.raw)
        except DecodeError as error:
            self._unreadable.append((row.id, str(error)))
            return
        tag = self._number, row.id
        delivery = Delivery(message, queue, tag, bool(row.redelivered), row.deaths, serial=row.id)
        self._held.add(delivery)
        self._kept.append(delivery)

    async def _bury_unreadable(self) -> None:
        """Nobody could run them: to the dead letters. What cannot be written now stays for the next claim."""
        if letters := tuple(self._unreadable):
            ending = queues_sql.Settlement(bounds(self._retention), reject=letters)
            await self._file.run(queues_sql.settle, self._number, ending)
            del self._unreadable[: len(letters)]

    async def _end(
        self,
        deliveries: Sequence[Delivery],
        function: Callable[[sqlite3.Connection, int, *Ts], None],
        *args: *Ts,
    ) -> None:
        """End the custody of these by one transaction; if it fails they are still held."""
        self._held.difference_update(deliveries)
        try:
            await self._file.run(function, self._number, *args, topic=MESSAGES)
        except OperationalError:
            self._held.update(one for one in deliveries if one.tag[0] == self._number)
            raise
        self._news.set()

    async def _wait(self) -> None:
        """Until someone tells of news, or the next look is due."""
        pause: float | None = None
        if len(self._held) < self._prefetch:
            names = tuple(self._queues)
            with suppress(OperationalError):
                pause = await self._file.run(queues_sql.next_event, self._number, names, mode=READ)
            pause = min(LOOK, LOOK if pause is None else pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()

    def _renumber(self, number: int) -> None:
        """A new number means that the lease was lost, and everything held with it."""
        if number != self._number:
            self._number = number
            self._forget()

    def _forget(self) -> None:
        self._held.clear()
        self._kept.clear()
        self._unreadable.clear()

    def _still_held(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return [one for one in deliveries if one in self._held]


def bounds(retention: Retention) -> tuple[float, int]:
    """From when on dead letters are kept, and how many."""
    return retention.dead_since, retention.dead_letters


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [one.tag[1] for one in deliveries]


class SqliteBroker(Broker):
    """Connects to a file; see `taskq.seams.broker.Broker`."""

    features: ClassVar[Features] = Features(delays=True, leases=True, once=True)

    def __init__(self, config: BrokerConfig) -> None:
        self._file = SqliteFile(config.url, f"{queues_sql.SCHEMA};{BUS_SCHEMA}", refuse)
        self._config = config
        self._lease = config.lease
        self._mode = DURABLE if self._file.location.durable else WRITE
        self._retention = config.retention
        self._consumers: list[SqliteConsumer] = []
        self.bus: SqliteBus = SqliteBus(self._file, config.retention.announced)

    async def open(self) -> None:
        await self._file.open()

    async def close(self) -> None:
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            await consumer.close()
        await self.bus.close()
        self._file.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        addressed, failures = address(messages, self._config)
        outgoing = [
            Outgoing(queue, -message.priority, raw, message.due, once, id_of(message))
            for queue, once, message, raw in addressed
        ]
        if outgoing:
            await self._file.run(queues_sql.publish, outgoing, mode=self._mode, topic=MESSAGES)
        raise_refused(failures, len(messages))

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> SqliteConsumer:
        consumer = SqliteConsumer(self._file, queues, prefetch, self._lease, self._retention)
        self._consumers.append(consumer)
        return consumer

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        holders = {delivery.tag[0] for delivery in held}
        lost = await self._file.run(queues_sql.keep_leases, holders, self._lease) if holders else ()
        return [delivery for delivery in held if delivery.tag[0] in lost]

    async def size(self, queue: str) -> int:
        return await self._file.run(queues_sql.size, queue, mode=READ)

    async def ready(self, queue: str) -> int:
        return await self._file.run(queues_sql.ready, queue, mode=READ)

    async def purge(self, queue: str) -> int:
        return await self._file.run(queues_sql.purge, queue)

    async def promote(self, queue: str) -> None:
        await self._file.run(queues_sql.promote, queue, topic=MESSAGES)

    async def recall(self, task_ids: Sequence[str]) -> None:
        await self._file.run(queues_sql.recall, task_ids, topic=MESSAGES)

    async def revoke(self, task_ids: Sequence[str], until: float) -> None:
        await self._file.run(queues_sql.revoke, task_ids, until, self._retention.revoked, mode=self._mode)

    async def revoked(self, task_ids: Sequence[str]) -> Collection[str]:
        return await self._file.run(queues_sql.revoked, task_ids, mode=READ)

    async def dead(self, limit: int = 1000) -> Sequence[DeadLetter]:
        await self._file.run(queues_sql.drop_dead, *bounds(self._retention))
        return [to_dead_letter(one) for one in await self._file.run(queues_sql.dead, limit, mode=READ)]

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        rows = [to_letter(letter) for letter in letters]
        await self._file.run(queues_sql.bury, rows, bounds(self._retention), mode=self._mode)

    async def revive(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        numbers = [int(one) for one in ids if one.isdecimal()]
        return [to_dead_letter(one) for one in await self._file.run(queues_sql.revive, numbers)]


def to_dead_letter(letter: Letter) -> DeadLetter:
    try:
        message, raw = loads(letter.raw), b""
    except DecodeError:
        return DeadLetter(str(letter.id), letter.queue, letter.reason, letter.at, None, letter.raw)
    return DeadLetter(str(letter.id), letter.queue, letter.reason, letter.at, message, raw)


def to_letter(letter: DeadLetter) -> Letter:
    raw = letter.raw if letter.message is None else dumps(letter.message, delivery_tag="")
    return Letter(0, letter.at, letter.queue, letter.reason, raw)
