"""The bus inside one process; see `taskq.seams.bus.Bus`."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from taskq.seams.bus import Arrivals, Exchange, Inbox
from taskq.seams.exchanges import takes
from taskq.wire.message import Message


class MemoryListener(Arrivals):
    """See `taskq.seams.bus.Listener`."""

    def __init__(self, hub: "BusHub", inbox: Inbox, most: int) -> None:
        super().__init__(most)
        self.inbox = inbox
        self._hub = hub
        self._loop = asyncio.get_running_loop()

    def give(self, messages: Sequence[Message]) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # its loop has ended: nobody waits there
            self._loop.call_soon_threadsafe(self._take, messages)

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if takes(self.inbox, message.routing_key):
                self.add(message)

    async def close(self) -> None:
        self._hub.leave(self)
        self.end()


class BusHub:
    """All listeners of one name. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[MemoryListener] = []

    def join(self, listener: MemoryListener) -> None:
        with self._lock:
            self._listeners.append(listener)

    def leave(self, listener: MemoryListener) -> None:
        with self._lock, suppress(ValueError):
            self._listeners.remove(listener)

    def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        with self._lock:
            for listener in self._listeners:
                if listener.inbox.exchange.name == exchange.name:
                    listener.give(messages)


HUBS: defaultdict[str, BusHub] = defaultdict(BusHub)


class MemoryBus:
    """See `taskq.seams.bus.Bus`."""

    def __init__(self, url: str, most: int) -> None:
        self._hub = HUBS[url]
        self._most = most
        self._listeners: list[MemoryListener] = []

    async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        self._hub.announce(exchange, messages)

    async def listen(self, inbox: Inbox) -> MemoryListener:
        listener = MemoryListener(self._hub, inbox, self._most)
        self._hub.join(listener)
        self._listeners = [known for known in self._listeners if not known.ended]
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()
