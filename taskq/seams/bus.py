"""The bus seam: messages to everyone who listens, and direct replies, beside the queues and at most once.

Remote control and events travel here (wire-format.md 7, 8): nothing is kept for those who do not listen.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from taskq.wire.message import Message


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where messages are announced: to all its inboxes (fanout), by pattern (topic), or by key (direct)."""

    name: str
    kind: Literal["fanout", "topic", "direct"] = "fanout"
    durable: bool = False

    def reply_inbox(self, key: str) -> str:
        """The name of the inbox of a key of a direct exchange, as kombu has it: replies go nowhere else."""
        return f"{key}.{self.name}"


@dataclass(frozen=True, slots=True)
class Inbox:
    """A listener's own queue, gone when it closes. That of a direct exchange is called `Exchange.reply_inbox(key)`.

    `key` is the pattern of a topic exchange (`worker.#`: `*` is one word, `#` any number of words) or the key of a
    direct one; `taskq.seams.exchanges.takes` reads it. `ttl` is how long a message waits in it, `expires` how long it outlives a listener that vanished, in seconds.
    """

    name: str
    exchange: Exchange
    key: str = ""
    ttl: float = 300.0
    expires: float = 10.0


class Listener(Protocol):
    """What arrives in one inbox."""

    async def receive(self) -> Sequence[Message]:
        """Wait for a message, take all there are; empty only once closed. Waits through a lost connection."""
        ...

    async def close(self) -> None:
        """Remove the inbox: a waiting `receive` returns empty."""
        ...


class Bus(Protocol):
    """Announcing and listening, for one event loop."""

    async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        """Hand messages, by their `routing_key`, to whoever listens to the exchange now.

        Raises:
            OperationalError: the broker could not be reached or refused.
        """
        ...

    async def listen(self, inbox: Inbox) -> Listener:
        """Make the inbox; it gets what is announced from now on.

        Raises:
            OperationalError: the broker could not be reached, or another process has an inbox of that name.
        """
        ...


class Arrivals:
    """The waiting end of a listener: adapters `add`, its owner `receive`s. Of `most` that wait the oldest make room."""

    def __init__(self, most: int = 20_000) -> None:
        self._waiting: deque[Message] = deque(maxlen=most)
        self._news = asyncio.Event()
        self._ended = False

    def add(self, message: Message) -> None:
        """A message has come; on the loop of the listener."""
        self._waiting.append(message)
        self._news.set()

    async def receive(self) -> Sequence[Message]:
        """As `Listener.receive`."""
        while not self._ended and not self._waiting:
            self._news.clear()
            await self._news.wait()
        arrived = [] if self._ended else list(self._waiting)
        self._waiting.clear()
        return arrived

    @property
    def ended(self) -> bool:
        """Whether the listener is closed."""
        return self._ended

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._news.set()

    async def close(self) -> None:
        """As `Listener.close`."""
        self.end()


class NoBus:
    """For a broker that has none: nobody listens, and who listens hears nothing."""

    async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        """As to any exchange without listeners."""

    async def listen(self, inbox: Inbox) -> Arrivals:  # noqa: ARG002 - the seam's signature
        """An inbox that stays empty."""
        return Arrivals(1)


NO_BUS: Final = NoBus()
