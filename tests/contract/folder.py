"""The least broker and the least store there can be, in a folder of files: what `taskq.seams` gives is all the rest.

For tests of the seams, and to copy from: it has no priorities and no leases (what a killed process held stays where it
is), and looks at the folder every few milliseconds.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from taskq.errors import DecodeError
from taskq.seams.broker import ANY_SIZE, Broker, BrokerConfig, Consumer, Features
from taskq.seams.exchanges import address, raise_refused
from taskq.seams.records import KeptRecords
from taskq.seams.store import ResultStore, StoreConfig, TaskResult
from taskq.seams.urls import SCHEMES, Scheme
from taskq.states import SUCCESS
from taskq.wire.envelope import loads
from taskq.wire.message import DeadLetter, Delivery, Message

SCHEMES["folder"] = Scheme("tests.contract.folder:FolderBroker", "tests.contract.folder:FolderStore")

LOOK = 0.01
COUNT = itertools.count()
KEPT: dict[str, KeptRecords] = {}


def path_of(url: str) -> Path:
    return Path("/" + url.partition(":///")[2])


class FolderConsumer(Consumer):
    def __init__(self, folders: dict[str, Path], prefetch: int, kept: KeptRecords) -> None:
        self._folders = folders
        self._prefetch = prefetch
        self._kept = kept
        self._held: dict[Delivery, Path] = {}
        self._closing = asyncio.Event()

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        taken: list[Delivery] = []
        while not taken and not self._closing.is_set():
            queues = list(self._folders.items())
            for name, folder in (queues := queues[1:] + queues[:1]):
                for path in sorted(folder.glob("*.json")):
                    if len(self._held) < self._prefetch and len(taken) < limit and max_bytes > 0:
                        self._claim(name, path, taken)
                        max_bytes -= len(taken[-1].message.body) if taken else 0
            self._folders = dict(queues)
            if not taken:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._closing.wait()
        return taken

    def _claim(self, queue: str, path: Path, taken: list[Delivery]) -> None:
        held = path.with_suffix(".held")
        try:
            path.rename(held)
        except FileNotFoundError:  # another was faster
            return
        raw = held.read_bytes()
        try:
            delivery = Delivery(loads(raw), queue, held, redelivered="again" in held.name)
        except DecodeError as error:
            self._kept.bury([DeadLetter(held.name, queue, str(error), time.time(), None, raw)])
            held.unlink()
            return
        self._held[delivery] = held
        taken.append(delivery)

    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        for delivery, reason in reject:
            if delivery in self._held:
                name = self._held[delivery].name
                self._kept.bury([DeadLetter(name, delivery.queue, reason, time.time(), delivery.message)])
        for delivery in (*ack, *(one for one, _ in reject)):
            if (path := self._held.pop(delivery, None)) is not None:
                path.unlink()
        for delivery in requeue:
            if (path := self._held.pop(delivery, None)) is not None:
                path.rename(path.with_name(f"{path.name.partition('.')[0]}.again.json"))

    async def close(self) -> None:
        self._closing.set()
        await self.settle(requeue=list(self._held))


class FolderBroker(Broker):
    """`folder:///path`: a folder for each queue, a file for each message."""

    features: ClassVar[Features] = Features(priorities=False)

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._consumers: list[FolderConsumer] = []
        self.kept = KEPT.setdefault(config.url, KeptRecords(config.retention))

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        addressed, failures = address(messages, self._config)
        for queue, _, _, raw in addressed:
            new = self._folder(queue) / f"{time.time_ns():020}-{os.getpid()}-{next(COUNT):09}.new"
            new.write_bytes(raw)
            new.rename(new.with_suffix(".json"))
        raise_refused(failures, len(messages))

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> FolderConsumer:
        consumer = FolderConsumer({name: self._folder(name) for name in queues}, prefetch, self.kept)
        self._consumers.append(consumer)
        return consumer

    async def size(self, queue: str) -> int:
        return len(list(self._folder(queue).glob("*.json")))

    async def purge(self, queue: str) -> int:
        found = list(self._folder(queue).glob("*.json"))
        for path in found:
            path.unlink()
        return len(found)

    def _folder(self, queue: str) -> Path:
        folder = path_of(self._config.url) / quote(queue, safe="")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class FolderStore(ResultStore):
    """`folder:///path`: a file for each task."""

    def __init__(self, config: StoreConfig) -> None:
        self._folder = path_of(config.url) / "results"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._dumps, self._loads = config.serializer.dumps, config.serializer.loads

    async def save(self, results: Sequence[TaskResult]) -> None:
        for result in results:
            [present] = await self.load([result.task_id])
            if present is None or present.state != SUCCESS:
                new = self._folder / f"{next(COUNT)}.new"
                new.write_bytes(self._dumps(result.payload()))
                new.rename(self._path(result.task_id))

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        paths = map(self._path, task_ids)
        return [
            TaskResult.from_payload(self._loads(path.read_bytes())) if path.exists() else None
            for path in paths
        ]

    async def forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{quote(task_id, safe='')}.json"
