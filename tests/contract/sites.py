"""What the contract suites must know of an adapter beyond its `Features`."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from taskq.seams.broker import Broker, Queue
from taskq.seams.store import ResultStore


@dataclass
class BrokerSite:
    """A fresh broker that several independent connections can reach.

    `urgent_first` are four priorities it tells apart, the most urgent first. `queue` declares a queue.
    `rename` makes a queue name the test's own, where the server is shared. `put_raw` puts bytes into a queue
    as an unfriendly program would (None where nobody can). `unreachable` is a URL of the same scheme that
    cannot be opened, with the password `s3cret` where a URL has one. `counts_delayed` tells whether `size` and
    `purge` see messages that are held back. The `least` broker has only what it must have (`tests/contract/folder.py`).
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    queue: Callable[[str], Queue] = Queue
    rename: Callable[[str], str] = str
    urgent_first: tuple[int, int, int, int] = (9, 6, 3, 0)
    put_raw: Callable[[str, bytes], Awaitable[None]] | None = None
    unreachable: str | None = None
    counts_delayed: bool = True
    least: bool = False


class ConnectBroker(Protocol):
    """Opens one more connection to the site's broker; all are closed when the test ends."""

    async def __call__(self, *, lease: float = 30.0) -> Broker: ...


@dataclass
class StoreSite:
    """A fresh result store that several independent connections can reach.

    `watchers` counts the running `watch`es of a task over a connection (1 will do for several, where they share
    one subscription). `unreachable` as above.
    """

    url: str
    watchers: Callable[[ResultStore, str], int]
    options: Mapping[str, Any] = field(default_factory=dict)
    unreachable: str | None = None


class ConnectStore(Protocol):
    """Opens one more connection to the site's store; all are closed when the test ends."""

    async def __call__(self, *, expires: float | None = 3600.0) -> ResultStore: ...
