"""The transport seam: what taskq asks of a broker.

`Broker` is three smaller ones: `Queues` moves messages, `Delays` finds those that are held back, `Records` remembers what
was revoked and what died. A broker that inherits from `Broker` gets the last two, and all but the heart of the first and of
`Consumer`, as it needs them: the least one is `publish`, `consume`, `size` and `purge`, and a consumer with `receive`, `settle`
and `close` (tests/contract/folder.py is one in a folder of files).
"""

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Final, Literal, Protocol, cast
from weakref import ref

from taskq.clock import now
from taskq.errors import ConfigError, OperationalError
from taskq.seams.bus import NO_BUS, Bus
from taskq.seams.records import Records, Retention
from taskq.seams.urls import SCHEMES, Scheme, check_url, scheme_of
from taskq.wire.message import Delivery, Message

#: As many bytes as there may be.
ANY_SIZE: Final = sys.maxsize
#: How long a `Message.once` is remembered, in seconds, and how long after the delivery that led to it was settled.
ONCE: Final = 86400
ONCE_SETTLED: Final = 300
#: How long a revoked id is remembered, in seconds, unless its caller says otherwise: longer than tasks are delayed for.
REVOKED_FOR: Final = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Features:
    """What a broker can do, read by the worker and by the contract tests."""

    persistent: bool = True  # messages survive a restart of the broker
    delays: bool = False  # holds a message with `due` back by itself
    leases: bool = False  # takes unsettled messages back after `BrokerConfig.lease` seconds without `renew`
    priorities: bool = True  # delivers more urgent messages first
    celery: bool = False  # Celery's workers may be on it, too
    once: bool = False  # publishes messages of the same `Message.once` a single time, within `ONCE` seconds


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue and how messages reach it. Only `name` is needed: the rest follows Celery's defaults.

    In `task_queues`, an empty `exchange` or `routing_key` means that of the default queue (`task_default_...`).
    `exchange_type` is direct, topic or fanout.
    `arguments` go to the broker as they are (RabbitMQ: `x-max-priority`, `x-queue-type`, ...).
    With `auto_delete` the queue is its consumer's own and goes with it: who publishes does not declare it, and
    it has an exchange only if one is named.
    """

    name: str
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    auto_delete: bool = False


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """What an adapter is built from.

    `url` is the whole URL, secrets included; `lease` is how many seconds a held delivery stays ours without a
    renewal; `queue` gives the declaration of a queue by name; `queues` gives those known by now (`task_queues`), which
    tell what lies behind an exchange; `options` are `broker_transport_options`;
    `timeout` bounds connecting, in seconds; `heartbeat` is for brokers that have one, in seconds;
    `held_bytes` is for brokers that push: no more is let come once what a consumer holds comes to so many bytes;
    `name` tells the broker's operator who is connected; `max_message_bytes` bounds what is published, headers and
    body together; `publish_timeout` is how long a publish may stay without an answer before its connection is given
    up, in seconds; `retention` bounds what is remembered.
    """

    url: str = field(repr=False)  # it may hold a password, as may the options and `ssl`
    lease: float = 30.0
    queue: Callable[[str], Queue] = Queue
    queues: Callable[[], Iterable[Queue]] = tuple
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 4.0
    heartbeat: float = 15.0
    held_bytes: int = ANY_SIZE
    ssl: Mapping[str, Any] | None = field(default=None, repr=False)
    name: str = "taskq"
    max_message_bytes: int = ANY_SIZE
    publish_timeout: float = 5.0
    retention: Retention = field(default_factory=Retention)


class Consumer(ABC):
    """Receives from some queues. Every delivery it gave out ends in exactly one of `settle` or `park`."""

    @property
    def revoked(self) -> Collection[str] | None:
        """All ids that were revoked when the last deliveries were taken, where they came along; None: ask the broker."""
        return None

    @abstractmethod
    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        """Wait for one delivery, take up to `limit`, none more once they come to `max_bytes`; empty only once closed.

        Both are at least 1, so that one message larger than `max_bytes` is given out, too: by itself, or as the last.
        More urgent messages come first. Waits through a lost connection (it reconnects by itself, with
        back-off). Cancelling it loses nothing: what was taken meanwhile comes with the next call.
        """

    @abstractmethod
    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        """End custody of these deliveries, in one round trip where possible.

        `ack` removes, `requeue` gives back at once (not counted as a death), `reject` moves to the dead
        letters with a one-line reason. Deliveries whose lease was lost are left to their new holder.
        """

    async def strike(self, delivery: Delivery, count: int = 1) -> None:
        """Before a message with `deaths` is run: should we die now, count it as one death more of this message.

        What merely lay in the hands of workers that died stays at 1, however many they were. A `count` of -1
        takes it back, for a run that was ended in good order. By default nothing is counted.
        """

    async def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        """End custody until a time (Unix seconds): the broker keeps them and delivers them again then.

        By default they stay in our custody, taking up room, and are given back to their queue when it is time.
        """
        loop, consumer = asyncio.get_running_loop(), cast("ref[Consumer]", ref(self))
        for delivery, due in deliveries:
            loop.call_later(max(0.0, due - now()), _give_back, consumer, delivery)

    async def resize(self, prefetch: int) -> None:
        """Hold up to so many unsettled at once from now on; what is held already may come on top. By default it stays."""

    async def subscribe(self, queues: Sequence[str]) -> None:
        """Receive from these queues from now on; what is held of others stays held.

        Raises:
            OperationalError: not possible now; by default never.
        """
        raise OperationalError(
            f"this broker's consumers keep to their queues: start a worker for {', '.join(queues)}"
        )

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:  # noqa: ARG002 - for those with leases
        """Keep the leases of all deliveries still held; returns those that were lost (none without leases)."""
        return ()

    @abstractmethod
    async def close(self) -> None:
        """Stop receiving: a waiting `receive` returns empty. Unsettled deliveries return to their queues."""


_GIVING_BACK: Final[set[asyncio.Task[None]]] = set()


def _give_back(consumer: "ref[Consumer]", delivery: Delivery) -> None:
    """A parked delivery is due; what was closed or collected meanwhile has given it back already."""
    if (alive := consumer()) is not None:
        task = asyncio.ensure_future(alive.settle(requeue=[delivery]))
        _GIVING_BACK.add(task)
        task.add_done_callback(_GIVING_BACK.discard)


class Queues(ABC):
    """Messages into queues and out of them."""

    async def open(self) -> None:
        """Connect. Raises OperationalError naming the URL (password masked) when that is not possible."""

    async def close(self) -> None:
        """Close every consumer and let the connection go."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once the broker is answerable for every message.

        Raises:
            PublishErrors: some were not taken, the others are safe (`failures`: index -> error; `Refused` where
                no further try can help).
            Refused: the only one can never be taken.
            OperationalError: none is known to be safe (`maybe_accepted` tells whether some may be).
            EncodeError: one of them cannot be written. Nothing was sent: the others may be, without it.
        """

    @abstractmethod
    async def consume(self, queues: Sequence[str], *, prefetch: int) -> Consumer:
        """Start receiving; `prefetch` is the most that will be held unsettled at once."""

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:  # noqa: ARG002 - for those with leases
        """As `Consumer.renew`, from any connection to the same broker; only asked for with `Features.leases`.

        By it a worker whose event loop is blocked keeps its leases from a thread.
        """
        return ()

    @abstractmethod
    async def size(self, queue: str) -> int:
        """How many messages wait in the queue (delayed ones included where they are known)."""

    async def ready(self, queue: str) -> int:
        """How many messages of the queue could be received now."""
        return await self.size(queue)

    @abstractmethod
    async def purge(self, queue: str) -> int:
        """Remove all waiting messages of a queue; returns how many there were."""


class Delays:
    """Messages that the broker holds back (`Features.delays`, `Consumer.park`). By default it knows of none."""

    async def promote(self, queue: str) -> None:
        """Deliver the delayed messages of a queue now, to who moves them elsewhere (where they are known by queue).

        A worker that receives one parks it again: it bears its `eta`.
        """

    async def recall(self, task_ids: Sequence[str]) -> None:
        """Deliver the delayed messages of these tasks now (where they can be found by task), as `promote` does."""


class Broker(Queues, Delays, Records):
    """A connection to one broker, for one event loop."""

    features: ClassVar[Features] = Features()
    #: Remote control and events; by default nobody can be reached.
    bus: Bus = NO_BUS


def hand_out(ready: deque[Delivery], limit: int, max_bytes: int) -> list[Delivery]:
    """Take the first of these, as `Consumer.receive` is to give them out."""
    taken: list[Delivery] = []
    while ready and limit > 0 and max_bytes > 0:
        delivery = ready.popleft()
        taken.append(delivery)
        limit -= 1
        max_bytes -= len(delivery.message.body)
    return taken


class Hold(Protocol):
    """A box that is read; see `Boxes.hold`."""

    async def next(self) -> Message | None:
        """The next message, in the order of the box; None: the box was sealed by somebody.

        Raises:
            OperationalError: none came within the configured timeout, or the connection broke.
        """
        ...

    async def release(self) -> None:
        """Let others hold the box: all that was in it is in it again, in its old order."""
        ...


class Boxes(Protocol):
    """Boxes of messages: many fill one, one at a time reads it, and it is closed for good in one step.

    Every method raises OperationalError when the broker cannot be asked. A box that nobody uses for as long as
    `BrokerConfig.queue` says of it (`x-expires`) goes.
    """

    async def put(self, box: str, messages: Sequence[Message], *, make: bool = False) -> bool:
        """Add messages; False: the box is sealed.

        A more urgent message stands before all others, else their order is that of arrival. A box that is not
        there is made; with `make` that is seen to first, so that no message can come before the ones given here.
        """
        ...

    async def look(self, box: str) -> tuple[int, bool] | None:
        """How many messages may be held, and whether somebody holds them now; None: there is no such box.

        While nobody holds it these are all messages; those of a sealed one are gone.
        """
        ...

    async def hold(self, box: str, limit: int) -> Hold | None:
        """Read the box, up to `limit` messages (0 = all); None: somebody holds it, or it is gone.

        It is let go by `Hold.release`, or by the end of the connection.
        """
        ...

    async def seal(self, box: str, hold: Hold | None = None) -> None:
        """Drop all that is in the box and, for five minutes, what is put into it later; `hold` is ours, if we hold it."""
        ...


def open_broker(config: BrokerConfig) -> Broker:
    """Build (not yet connect) the broker of a URL.

    Raises:
        ConfigError: no adapter is known for the scheme, or the URL cannot work.
    """
    broker: Broker = adapter_of(config.url, "broker")(config)
    return broker


def adapter_of(url: str, kind: Literal["broker", "store", "ledger"]) -> Any:
    """The class that serves a URL, from our table or from an installed entry point.

    Raises:
        ConfigError: none does, or the URL cannot be what was meant.
    """
    check_url(url)
    scheme = scheme_of(url)
    module, _, name = getattr(SCHEMES.get(scheme, Scheme()), kind).partition(":")
    if module:
        return getattr(import_module(module), name)
    from importlib.metadata import entry_points  # noqa: PLC0415 - a tenth of the time of `import taskq`

    for entry in entry_points(group=f"taskq.{kind}s"):
        if entry.name == scheme:
            return entry.load()
    known = ", ".join(sorted(name for name, one in SCHEMES.items() if getattr(one, kind)))
    what = "result store" if kind == "store" else kind
    raise ConfigError(f"no {what} for URL scheme {scheme!r:.60}: known are {known}")
