"""The embedded ledger: in the broker's file, so that it is as safe as what is queued. Safety: see `taskq.broker_adapters.sqlite.file`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from taskq.broker_adapters.sqlite import ledger_tables as sql
from taskq.broker_adapters.sqlite.file import DURABLE, READ, WRITE, Failure, SqliteFile
from taskq.broker_adapters.sqlite.wake import WakeSocket
from taskq.errors import OperationalError
from taskq.seams.ledger import CHANGE_WITHIN, Document, LedgerConfig, Mark, Slot, Wait, Want

logger = logging.getLogger(__name__)

#: What those who wait for changes of documents listen to.
DOCUMENTS: Final = "documents"


def refuse(failure: Failure) -> OperationalError:
    return OperationalError(failure.text)


class SqliteLedger:
    """Connects to a file; see `taskq.seams.ledger.Ledger`."""

    def __init__(self, config: LedgerConfig) -> None:
        self._file = SqliteFile(config.url, sql.SCHEMA, refuse)
        # What somebody changed by hand outlives a power cut, as what is published does.
        self._mode = DURABLE if self._file.location.durable else WRITE

    async def open(self) -> None:
        await self._file.open()

    async def close(self) -> None:
        self._file.close()

    async def put(self, kind: str, name: str, value: bytes, *, if_version: int | None = None) -> int | None:
        return await self._file.run(sql.put, kind, name, value, if_version, mode=self._mode, topic=DOCUMENTS)

    async def get(self, kind: str, names: Sequence[str] | None = None) -> Mapping[str, Document]:
        return await self._file.run(sql.get, kind, names, mode=READ)

    async def drop(self, kind: str, names: Sequence[str]) -> None:
        await self._file.run(sql.drop, kind, names, mode=self._mode, topic=DOCUMENTS)

    async def changes(self, kind: str) -> AsyncGenerator[None, None]:
        news = asyncio.Event()
        listener = WakeSocket(self._file.wake_folder, DOCUMENTS, news.set)
        told = -1
        try:
            while True:
                news.clear()
                if (last := await self._last_version(kind, told)) != told:
                    told = last
                    yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHANGE_WITHIN / 2):
                        await news.wait()
        finally:
            listener.close()

    async def _last_version(self, kind: str, otherwise: int) -> int:
        try:
            return await self._file.run(sql.last_version, kind, mode=READ)
        except OperationalError as error:
            logger.warning("cannot look for changes, trying again: %s", error)
            return otherwise

    async def mark(self, marks: Sequence[Mark]) -> Sequence[str | None]:
        return await self._file.run(sql.mark, marks)

    async def unmark(self, marks: Sequence[Mark]) -> None:
        await self._file.run(sql.unmark, marks)

    async def acquire(
        self, asks: Sequence[Sequence[Want]], holder: str, lease: float
    ) -> Sequence[Wait | None]:
        return await self._file.run(sql.acquire, asks, holder, lease)

    async def release(self, slots: Sequence[Slot], holder: str) -> None:
        await self._file.run(sql.release, slots, holder)

    async def keep(self, holder: str, lease: float) -> None:
        await self._file.run(sql.keep, holder, lease)
