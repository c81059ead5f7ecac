"""One connection to the broker, one to the result store and, where it is used, one to the ledger, for one event loop."""

import asyncio
from types import TracebackType
from typing import Self

from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.seams.ledger import Ledger, LedgerConfig, find_ledger, open_ledger
from taskq.seams.publisher import Publisher
from taskq.seams.store import ResultStore, StoreConfig, open_store


class Connection:
    """The connections of one event loop, made at first use; everything on the loop shares them.

    A connection carries any number of concurrent calls, so there is nothing to gain from a pool of many.
    """

    def __init__(self, broker: BrokerConfig, store: StoreConfig, ledger_url: str | None = None) -> None:
        self.broker_config = broker
        self._store_config = store
        self._ledger_url = ledger_url
        self._ledger: Ledger | None = None
        self.broker: Broker = open_broker(broker)
        self.store: ResultStore = open_store(store)
        self.publisher = Publisher(self.open_broker, broker.url)
        self._broker_open = False
        self._store_open = False
        self._lock = asyncio.Lock()

    async def open_broker(self) -> Broker:
        """The broker, connected. Raises OperationalError."""
        if not self._broker_open:
            async with self._lock:
                if not self._broker_open:
                    await self.broker.open()
                    self._broker_open = True
        return self.broker

    async def open_store(self) -> ResultStore:
        """The result store, connected. Raises StoreError."""
        if not self._store_open:
            async with self._lock:
                if not self._store_open:
                    await self.store.open()
                    self._store_open = True
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
        async with self._lock:
            if self._ledger is None:
                ledger = open_ledger(self.ledger_config(feature))
                await ledger.open()
                self._ledger = ledger
        return self._ledger

    async def open(self) -> Self:
        """Connect broker and result store. Raises OperationalError or StoreError."""
        await self.open_broker()
        await self.open_store()
        return self

    async def close(self) -> None:
        """Close what was opened; the next use opens it again."""
        async with self._lock:
            if self._broker_open:
                self._broker_open = False
                await self.broker.close()
            if self._store_open:
                self._store_open = False
                await self.store.close()
            if self._ledger is not None:
                ledger, self._ledger = self._ledger, None
                await ledger.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
