"""The bus seam: messages to everyone who listens, and direct replies, beside the queues and at most once.

Remote control and events travel here (wire-format.md 7, 8): nothing is kept for those who do not listen.
"""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Protocol

from taskq.wire.message import Message

#: Messages kept for a listener that is slow; the oldest make room.
MOST_WAITING: Final = 20_000


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

    `key` is the pattern of a topic exchange (`worker.#`: `*` is one word, `#` any text) or the key of a direct one.
    `ttl` is how long a message waits in it, `expires` how long it outlives a listener that vanished, in seconds.
    """

    name: str
    exchange: Exchange
    key: str = ""
    ttl: float = 300.0
    expires: float = 10.0

    def takes(self, routing_key: str) -> bool:
        """Whether a message of this key, announced to the exchange, is for this inbox."""
        if self.exchange.kind == "topic":
            return _pattern(self.key).fullmatch(routing_key) is not None
        return self.exchange.kind == "fanout" or routing_key == self.key


@lru_cache(maxsize=1000)
def _pattern(key: str) -> re.Pattern[str]:
    """As kombu has it: `*` is one word, `#` any text, also none."""
    words = {"*": r"[^.]+", "#": ".*"}
    joined = r"\.".join(words.get(word, re.escape(word)) for word in key.split("."))
    return re.compile(joined, re.DOTALL)


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
    """The waiting end of a listener: adapters `add`, its owner `receive`s."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque(maxlen=MOST_WAITING)
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
