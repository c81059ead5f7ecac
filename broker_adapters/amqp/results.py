"""Results sent straight to their caller, as Celery's `rpc://` (wire-format.md 4.9).

Each state of a task is one message to the queue that the task's message named in `reply_to`. Nothing is stored
on the way: who asks for a result must be who called (or share its store object), and there are no saved groups.
The parts of chords wait in queues of their own (chords.py). All of it is on a connection of its own.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Protocol, cast
from uuid import uuid4

from taskq.broker_adapters.amqp.chords import Chords
from taskq.clock import now
from taskq.errors import DecodeError, OperationalError, PublishErrors, StoreError, Unroutable
from taskq.seams.broker import Boxes, BrokerConfig, Consumer, Queue, open_broker
from taskq.seams.store import StoreConfig, TaskResult
from taskq.states import READY, SUCCESS
from taskq.wire.message import Delivery, Message

log = logging.getLogger("taskq.stores")

#: Replies taken at once.
_PREFETCH = 1000
#: The most results kept for a later question; the oldest make room.
_KEPT = 100_000
#: The most states of one task kept for the first who watches it.
_UNSEEN = 100


class _WithBoxes(Protocol):
    """What the broker of `rpc+amqp` can do besides."""

    boxes: Boxes


class _ReplyWatcher:
    """What one `watch` has still to give out."""

    def __init__(self) -> None:
        self.states: deque[TaskResult] = deque()
        self.news = asyncio.Event()

    def tell(self, result: TaskResult) -> None:
        self.states.append(result)
        self.news.set()


class RpcStore:
    """Sends results, and receives those of its own calls; see `taskq.seams.store.ResultStore`."""

    keeps_chords: ClassVar[bool] = True

    def __init__(self, config: StoreConfig) -> None:
        self.reply_to = str(uuid4())
        self._config = config
        self._serializer = config.serializer
        lifetime = {"x-expires": int(config.expires * 1000)} if config.expires else {}
        self._broker = open_broker(
            BrokerConfig(
                url=config.url.removeprefix("rpc+"),
                queue=lambda name: Queue(name, auto_delete=True, arguments=lifetime),
                options=config.options,
                timeout=config.timeout,
                ssl=config.ssl,
                name="taskq:results",
            )
        )
        boxes = cast("_WithBoxes", self._broker).boxes
        self._chords = Chords(boxes, config.serializer, config.options.get("namespace", "taskq"))
        self._consumer: Consumer | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        #: With the time of the last, oldest first; those before the last are for the first who watches.
        self._received: dict[str, tuple[float, list[TaskResult]]] = {}
        self._watchers: dict[str, list[_ReplyWatcher]] = {}

    async def open(self) -> None:
        try:
            await self._broker.open()
        except OperationalError as error:
            raise StoreError(f"results cannot be sent or received: {error}") from error

    async def close(self) -> None:
        await self._chords.close()
        if self._consumer is not None:
            await self._consumer.close()
        if self._reader is not None:
            await self._reader
        self._consumer = self._reader = None
        await self._broker.close()

    async def expect(self, task_ids: Sequence[str]) -> None:  # noqa: ARG002 - the seam's signature
        """Declare the reply queue, once: a worker may answer before `publish` returns."""
        if self._reader is not None:
            return
        async with self._starting:
            if self._reader is not None:
                return
            try:
                consumer = await self._broker.consume([self.reply_to], prefetch=_PREFETCH)
            except OperationalError as error:
                raise StoreError(f"no reply queue for results: {error}") from error
            self._consumer = consumer
            self._reader = asyncio.create_task(self._read(consumer), name="taskq-rpc-results")

    async def save(self, results: Sequence[TaskResult]) -> None:
        """Send these to their callers; results of tasks that named no `reply_to` go nowhere."""
        messages = [self._reply(result) for result in results if result.reply_to]
        if not messages:
            return
        try:
            await self._broker.publish(messages)
        except Unroutable:
            log.debug("nobody waits for %d results any more", len(messages))
        except PublishErrors as errors:
            for error in errors.failures.values():
                if not isinstance(error, Unroutable):
                    raise StoreError(f"results could not be sent: {error}") from errors
        except OperationalError as error:
            raise StoreError(f"results could not be sent: {error}") from error

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        """What has been received for each task."""
        return [self._present(task_id) for task_id in task_ids]

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        watcher = _ReplyWatcher()
        for known in self._take_unseen(task_id):
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
            self._received.pop(task_id, None)

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        await self._chords.begin(sizes)

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        await self._chords.grow(group_id, task_id)

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        return await self._chords.join(part, index)

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
        known = self._received.pop(result.task_id, None)
        if known is not None and known[1][-1].state == SUCCESS:
            self._received[result.task_id] = known
            return
        watchers = self._watchers.get(result.task_id, ())
        before = [] if known is None or watchers else known[1][1 - _UNSEEN :]
        self._received[result.task_id] = (now(), [*before, result])
        for watcher in watchers:
            watcher.tell(result)
        self._drop_old()

    def _take_unseen(self, task_id: str) -> list[TaskResult]:
        """All that came before anybody watched, as in a queue of answers; only the last is kept."""
        self._drop_old()
        if (received := self._received.get(task_id)) is None:
            return []
        unseen = list(received[1])
        del received[1][:-1]
        return unseen

    def _present(self, task_id: str) -> TaskResult | None:
        self._drop_old()
        received = self._received.get(task_id)
        return received[1][-1] if received is not None else None

    def _drop_old(self) -> None:
        oldest = now() - self._config.expires if self._config.expires else 0.0
        while self._received:
            first = next(iter(self._received))
            if len(self._received) <= _KEPT and self._received[first][0] > oldest:
                return
            del self._received[first]
