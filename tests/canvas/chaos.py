"""Workers that die between any two of their effects, as `kill -9` would have them: for tests of workflows.

`chaos://<name>` wraps the broker and the store of `FATES[name]`. When its hour has come, a worker's every verb hangs,
nothing is given back, and no lease is renewed any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from taskq.errors import OperationalError
from taskq.seams.broker import ANY_SIZE, Broker, BrokerConfig, Consumer, open_broker
from taskq.seams.store import Joined, ResultStore, StoreConfig, TaskResult, open_store
from taskq.wire.message import Delivery, Message

T = TypeVar("T")

FATES: dict[str, "Fate"] = {}


class Fate:
    """When one worker dies: at its `hour`-th effect (None: never), before it has come to pass or after it.

    With `lapse` it also never renews a lease, so that what takes long is given to another worker as well.
    """

    def __init__(
        self, url: str, hour: int | None = None, *, before: bool = True, lapse: bool = False
    ) -> None:
        self.url = url
        self.hour = hour
        self.before = before
        self.lapse = lapse
        self.effects: list[str] = []
        self.dead = asyncio.Event()
        #: The test is through with this worker: what still hangs is to end.
        self.buried = asyncio.Event()

    async def effect(self, name: str, act: Callable[[], Awaitable[T]]) -> T:
        await self.alive()
        self.effects.append(name)
        struck = len(self.effects) == self.hour
        if struck and self.before:
            await self.die()
        value = await act()
        if struck:
            await self.die()
        return value

    async def alive(self) -> None:
        if self.dead.is_set():
            await self.die()

    async def die(self) -> NoReturn:
        self.dead.set()
        await self.buried.wait()
        raise asyncio.CancelledError


class ChaosConsumer:
    def __init__(self, inner: Consumer, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        await self._fate.alive()
        return await self._inner.receive(limit, max_bytes)

    async def resize(self, prefetch: int) -> None:
        await self._inner.resize(prefetch)

    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        await self._fate.effect("settle", lambda: self._inner.settle(ack=ack, requeue=requeue, reject=reject))

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        await self._fate.alive()
        return [] if self._fate.lapse else await self._inner.renew(held)

    async def close(self) -> None:
        if not self._fate.dead.is_set():
            await self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ChaosBroker:
    def __init__(self, config: BrokerConfig) -> None:
        self._fate = FATES[config.url.removeprefix("chaos://")]
        self._inner: Broker = open_broker(replace(config, url=self._fate.url))
        self.features = self._inner.features

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._fate.effect("publish", lambda: self._inner.publish(messages))

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> ChaosConsumer:
        return ChaosConsumer(await self._inner.consume(queues, prefetch=prefetch), self._fate)

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        """Called from the watchdog's own loop."""
        if self._fate.dead.is_set():
            raise OperationalError("dead")
        return [] if self._fate.lapse else await self._inner.renew(held)

    async def close(self) -> None:
        if self._fate.dead.is_set():
            abandon(self._inner)
        else:
            await self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def abandon(broker: Any) -> None:
    """What the system does for a process that was killed: its sockets and files are closed."""
    if file := getattr(broker, "_file", None):
        file.close()
        for consumer in broker._consumers:
            consumer._listener.close()


class ChaosStore:
    keeps_chords = True

    def __init__(self, config: StoreConfig) -> None:
        self._fate = FATES[config.url.removeprefix("chaos://")]
        self._inner: ResultStore = open_store(replace(config, url=self._fate.url))
        self.reply_to = self._inner.reply_to

    async def save(self, results: Sequence[TaskResult]) -> None:
        await self._fate.effect("save", lambda: self._inner.save(results))

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        await self._fate.effect("begin", lambda: self._inner.begin_chords(sizes))

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        await self._fate.effect("grow", lambda: self._inner.grow_chord(group_id, task_id))

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        return await self._fate.effect("join", lambda: self._inner.join(part, index))

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        return await self._fate.effect("join", lambda: self._inner.join_many(parts))

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        await self._fate.effect("end", lambda: self._inner.end_chords(group_ids))

    async def close(self) -> None:
        if not self._fate.dead.is_set():
            await self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
