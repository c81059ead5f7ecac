"""Results sent straight to their caller, as Celery's `rpc://` (wire-format.md 4.9).

Each state of a task is one message to the queue that the task's message named in `reply_to`. Nothing is stored
on the way: who asks for a result must be who called (or share its store object), and there are no saved groups.
The queue is its caller's alone (exclusive): it lives on the node that the caller is connected to, and goes with the connection.
The parts of chords wait in queues of their own (chords.py). All of it is on a connection of its own.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, cast
from uuid import uuid4

from taskq.broker_adapters.amqp.broker import AmqpBroker
from taskq.broker_adapters.amqp.chords import Chords
from taskq.broker_adapters.amqp.link import OneAttempt
from taskq.broker_adapters.amqp.replies import Replies
from taskq.broker_adapters.amqp.topology import OwnQueue
from taskq.clock import now
from taskq.errors import DecodeError, EncodeError, OperationalError, Refused, SaveErrors, StoreError
from taskq.seams.broker import Boxes, BrokerConfig, Consumer, Queue
from taskq.seams.store import Joined, ResultStore, StoreConfig, TaskResult, join_each
from taskq.states import READY, SUCCESS
from taskq.wire.message import Delivery, Message

log = logging.getLogger("taskq.stores")

#: Replies taken at once.
_PREFETCH = 1000
#: The most results kept for a later question, in bytes and in number; those that were read make room first.
_MOST_BYTES: Final = 64_000_000
_KEPT: Final = 100_000
#: What a result takes besides its body, in bytes.
_OVERHEAD: Final = 1000
#: The most states of one task kept for the first who watches it.
_UNSEEN = 100


class _ReplyWatcher:
    """What one `watch` has still to give out."""

    def __init__(self) -> None:
        self.states: deque[TaskResult] = deque()
        self.news = asyncio.Event()

    def tell(self, result: TaskResult) -> None:
        self.states.append(result)
        self.news.set()


@dataclass(slots=True)
class _Known:
    """States of one task, the last of them known to all; those before it are for the first who watches."""

    at: float
    states: list[TaskResult] = field(default_factory=list)
    size: int = 0


class Received:
    """What came for us, bounded in bytes: the first to go is what was read, then what is oldest."""

    def __init__(self, expires: float | None, most_bytes: int = _MOST_BYTES) -> None:
        self._expires = expires
        self._most_bytes = most_bytes
        self.bytes = 0
        self._unread: OrderedDict[str, _Known] = OrderedDict()
        self._read: OrderedDict[str, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._unread) + len(self._read)

    def add(self, result: TaskResult, size: int, *, watched: bool) -> bool:
        """One more state; False: a success is known already, and stays."""
        name = result.task_id
        known = self._read.get(name) or self._unread.get(name)
        if known is not None and known.states[-1].state == SUCCESS:
            return False
        before = [] if known is None or watched else known.states[1 - _UNSEEN :]
        total = size + _OVERHEAD + (known.size if known is not None and before else 0)
        self.forget(name)
        self._unread[name] = _Known(now(), [*before, result], total)
        self.bytes += total
        self._make_room()
        return True

    def take(self, task_id: str) -> list[TaskResult]:
        """All that came before anybody watched, as in a queue of answers; only the last is kept."""
        found = self._found(task_id)
        if found is None:
            return []
        states = list(found.states)
        del found.states[:-1]
        return states

    def last(self, task_id: str) -> TaskResult | None:
        """The present state."""
        found = self._found(task_id)
        return None if found is None else found.states[-1]

    def forget(self, task_id: str) -> None:
        for place in (self._unread, self._read):
            if (gone := place.pop(task_id, None)) is not None:
                self.bytes -= gone.size

    def _found(self, task_id: str) -> _Known | None:
        self._make_room()
        found = self._unread.get(task_id) or self._read.get(task_id)
        if found is not None and found.states[-1].state in READY and task_id in self._unread:
            self._read[task_id] = self._unread.pop(task_id)
        return found

    def _make_room(self) -> None:
        oldest = now() - self._expires if self._expires else 0.0
        for place in (self._read, self._unread):
            while place:
                name, first = next(iter(place.items()))
                if self.bytes <= self._most_bytes and len(self) <= _KEPT and first.at > oldest:
                    break
                del place[name]
                self.bytes -= first.size


class RpcStore(ResultStore):
    """Sends results, and receives those of its own calls; see `taskq.seams.store.ResultStore`."""

    keeps_chords: ClassVar[bool] = True

    def __init__(self, config: StoreConfig) -> None:
        self.reply_to = str(uuid4())
        self._config = config
        self._serializer = config.serializer
        lifetime = {"x-expires": int(config.expires * 1000)} if config.expires else {}

        def queue(name: str) -> Queue:
            if name == self.reply_to:
                return OwnQueue(name, durable=False, auto_delete=True)
            return Queue(name, auto_delete=True, arguments=lifetime)

        self._broker = AmqpBroker(
            BrokerConfig(
                url=config.url.removeprefix("rpc+"),
                queue=queue,
                options=config.options,
                timeout=config.timeout,
                ssl=config.ssl,
                name="taskq:results",
            )
        )
        self._replies = Replies(self._send)
        space = config.options.get("namespace", "taskq")
        self._chords = Chords(cast("Boxes", self._broker.boxes), config.serializer, space)
        self._consumer: Consumer | None = None
        self._reader: asyncio.Task[None] | None = None
        self._start = OneAttempt(self._listen)
        self._received = Received(config.expires)
        self._watchers: dict[str, list[_ReplyWatcher]] = {}

    async def open(self) -> None:
        try:
            await self._broker.open()
        except OperationalError as error:
            raise StoreError(f"results cannot be sent or received: {error}") from error

    async def close(self) -> None:
        await self._replies.close()
        await self._chords.close()
        if self._consumer is not None:
            await self._consumer.close()
        if self._reader is not None:
            await self._reader
        self._consumer = self._reader = None
        await self._broker.close()

    async def expect(self, task_ids: Sequence[str]) -> None:  # noqa: ARG002 - the seam's signature
        """Declare the reply queue, once: a worker may answer before `publish` returns."""
        if self._reader is None:
            await self._start()

    async def _listen(self) -> None:
        try:
            consumer = await self._broker.consume([self.reply_to], prefetch=_PREFETCH)
        except OperationalError as error:
            raise StoreError(f"no reply queue for results: {error}") from error
        self._consumer = consumer
        self._reader = asyncio.create_task(self._read(consumer), name="taskq-rpc-results")

    async def save(self, results: Sequence[TaskResult]) -> None:
        """Send these to their callers; results of tasks that named no `reply_to` go nowhere.

        An answer that cannot be delivered now is tried again beside, and holds nobody up.
        """
        places = [index for index, result in enumerate(results) if result.reply_to]
        if not places:
            return
        answers = [self._reply(results[index]) for index in places]
        ends = [results[index].state in READY for index in places]
        try:
            refused = await self._replies.send(answers, ends)
        except OperationalError as error:
            raise StoreError(f"results could not be sent: {error}") from error
        if refused:
            raise SaveErrors({places[place]: error for place, error in refused.items()})

    async def _send(self, answers: Sequence[Message]) -> Mapping[int, Exception]:
        """Raises OperationalError: there is no connection."""
        try:
            return await self._broker.publish_each(answers)
        except EncodeError as error:  # an address that is none
            if len(answers) == 1:
                return {0: Refused(str(error))}
        return {
            index: f for index, answer in enumerate(answers) for f in (await self._send([answer])).values()
        }

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        """What has been received for each task."""
        return [self._received.last(task_id) for task_id in task_ids]

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        watcher = _ReplyWatcher()
        for known in self._received.take(task_id):
            watcher.tell(known)
        self._watchers.setdefault(task_id, []).append(watcher)
        try:
            final = False
            while not final:
                while not watcher.states:
                    watcher.news.clear()
                    await watcher.news.wait()
                result = watcher.states.popleft()
                final = result.state in READY
                yield result
        finally:
            self._watchers[task_id].remove(watcher)
            if not self._watchers[task_id]:
                del self._watchers[task_id]

    async def forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._received.forget(task_id)

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        await self._chords.begin(sizes)

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        await self._chords.grow(group_id, task_id)

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        return await self._chords.join(part, index)

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        """Each by itself: every chord is a queue of its own."""
        return await join_each(self.join, parts)

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        await self._chords.end(group_ids)

    async def save_group(self, group_id: str, data: Any) -> None:  # noqa: ARG002 - the seam's signature
        """Raises StoreError: nothing is kept here that another process could read."""
        raise StoreError(
            f"rpc:// keeps no groups (asked for {group_id}): use a result_backend that stores, such as redis://"
        )

    async def load_group(self, group_id: str) -> Any:  # noqa: ARG002 - the seam's signature
        return None

    async def forget_group(self, group_id: str) -> None:
        """Nothing is kept."""

    def watchers(self, task_id: str) -> int:
        """How many `watch`es of a task are running."""
        return len(self._watchers.get(task_id, ()))

    def _reply(self, result: TaskResult) -> Message:
        return Message(
            headers={},
            body=self._serializer.dumps(result.payload()),
            content_type=self._serializer.content_type,
            content_encoding=self._serializer.content_encoding,
            correlation_id=result.task_id,
            delivery_mode=1,
            exchange="",
            routing_key=result.reply_to,
        )

    async def _read(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(_PREFETCH):
            for delivery in deliveries:
                self._receive(delivery)
            with suppress(OperationalError):
                await consumer.settle(ack=deliveries)

    def _receive(self, delivery: Delivery) -> None:
        try:
            payload = self._serializer.loads(delivery.message.body)
            result = TaskResult.from_payload(payload)
            hash((result.task_id, result.state))  # they are looked up
        except (DecodeError, KeyError, TypeError, AttributeError) as error:
            log.warning("an answer cannot be read (%r): is result_serializer the same on both sides?", error)
            return
        watchers = self._watchers.get(result.task_id, ())
        if self._received.add(result, len(delivery.message.body), watched=bool(watchers)):
            for watcher in watchers:
                watcher.tell(result)
