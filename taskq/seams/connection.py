"""One connection to the broker, one to the result store and, where it is used, one to the ledger, for one event loop."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.seams.ledger import Ledger, LedgerConfig, find_ledger, open_ledger
from taskq.seams.publisher import Publisher
from taskq.seams.store import ResultStore, StoreConfig, open_store

#: Seconds that closing may take when the event loop ends: a broker that is gone must not hold up the program's end.
PATIENCE: Final = 2.0


class Opening:
    """One attempt to open something, shared by all who want it meanwhile: they all get what becomes of it."""

    def __init__(self, act: Callable[[], Awaitable[None]]) -> None:
        self._act = act
        self._attempt: asyncio.Task[None] | None = None
        self.done = False

    async def wait(self) -> None:
        """Until it is open. Raises what the attempt did; the next call begins another."""
        if self.done:
            return
        if self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._attempt)

    async def _open(self) -> None:
        try:
            await self._act()
            self.done = True
        finally:
            self._attempt = None

    async def undo(self, close: Callable[[], Awaitable[None]]) -> None:
        """Close it if it is open, or about to be."""
        if (attempt := self._attempt) is not None:
            await asyncio.wait([attempt])
        if self.done:
            self.done = False
            await close()


class Connection:
    """The connections of one event loop, made at first use; everything on the loop shares them.

    A connection carries any number of concurrent calls, so there is nothing to gain from a pool of many. They are
    closed with the loop, if nobody closes them before: `asyncio.run(task.delay())` leaves nothing open.
    """

    def __init__(self, broker: BrokerConfig, store: StoreConfig, ledger_url: str | None = None) -> None:
        self.broker_config = broker
        self._store_config = store
        self._ledger_url = ledger_url
        self._ledger: Ledger | None = None
        self.broker: Broker = open_broker(broker)
        self.store: ResultStore = open_store(store)
        self.publisher = Publisher(self.open_broker, broker.url)
        self._broker_opening = Opening(self.broker.open)
        self._store_opening = Opening(self.store.open)
        self._end: AsyncGenerator[None, None] | None = None

    async def open_broker(self) -> Broker:
        """The broker, connected. Raises OperationalError."""
        if not self._broker_opening.done:
            await self._close_with_loop()
            await self._broker_opening.wait()
        return self.broker

    async def open_store(self) -> ResultStore:
        """The result store, connected. Raises StoreError."""
        if not self._store_opening.done:
            await self._close_with_loop()
            await self._store_opening.wait()
        return self.store

    def ledger_config(self, feature: str) -> LedgerConfig:
        """Where the ledger is, for what is named so in an error. Raises ConfigError: there is no place for one."""
        return find_ledger(self._ledger_url, self.broker_config, self._store_config, feature)

    async def open_ledger(self, feature: str) -> Ledger:
        """The ledger, connected, for what is named so in an error.

        Raises:
            ConfigError: there is no place for one.
            OperationalError: it could not be reached.
        """
        if self._ledger is None:
            self._ledger = open_ledger(self.ledger_config(feature))
            self._ledger_opening = Opening(self._ledger.open)
        if not self._ledger_opening.done:
            await self._close_with_loop()
            await self._ledger_opening.wait()
        return self._ledger

    async def open(self) -> Self:
        """Connect broker and result store. Raises OperationalError or StoreError."""
        await self.open_broker()
        await self.open_store()
        return self

    async def close(self) -> None:
        """Close what was opened; the next use opens it again."""
        await self._broker_opening.undo(self.broker.close)
        await self._store_opening.undo(self.store.close)
        if self._ledger is not None:
            await self._ledger_opening.undo(self._ledger.close)

    async def _close_with_loop(self) -> None:
        """`asyncio.run` ends the asynchronous generators that are under way before it closes its loop."""
        if self._end is None:
            self._end = self._until_loop_ends()
            await anext(self._end)

    async def _until_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.close()
            except TimeoutError:
                pass  # what it held goes with the process

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
