"""The transport seam: what taskq asks of a broker, and how one is found by its URL."""

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Final, Protocol

from taskq.errors import ConfigError
from taskq.seams.bus import Bus
from taskq.wire.message import DeadLetter, Delivery, Message

#: URL scheme -> "module:Class". Others register under the entry-point group `taskq.brokers`.
BROKERS: dict[str, str] = {
    "amqp": "taskq.broker_adapters.amqp.broker:AmqpBroker",
    "amqps": "taskq.broker_adapters.amqp.broker:AmqpBroker",
    "memory": "taskq.broker_adapters.memory.broker:MemoryBroker",
    "pyamqp": "taskq.broker_adapters.amqp.broker:AmqpBroker",
    "sqlite": "taskq.broker_adapters.sqlite.broker:SqliteBroker",
    "redis": "taskq.broker_adapters.redis.broker:RedisBroker",
    "rediss": "taskq.broker_adapters.redis.broker:RedisBroker",
    "redis+socket": "taskq.broker_adapters.redis.broker:RedisBroker",
    "sentinel": "taskq.broker_adapters.redis.broker:RedisBroker",
    "valkey": "taskq.broker_adapters.redis.broker:RedisBroker",
    "valkeys": "taskq.broker_adapters.redis.broker:RedisBroker",
}


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
    `name` tells the broker's operator who is connected; `dead_retention` is how long dead letters are kept, in
    seconds (None = for ever; RabbitMQ keeps them until they are purged).
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
    dead_retention: float | None = 604_800.0


class Consumer(Protocol):
    """Receives from some queues. Every delivery it gave out ends in exactly one of `settle` or `park`."""

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        """Wait for one delivery, take up to `limit`, none more once they come to `max_bytes`; empty only once closed.

        Both are at least 1, so that one message larger than `max_bytes` is given out, too: by itself, or as the last.
        More urgent messages come first. Waits through a lost connection (it reconnects by itself, with
        back-off). Cancelling it loses nothing: what was taken meanwhile comes with the next call.
        """
        ...

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
        ...

    async def strike(self, delivery: Delivery, count: int = 1) -> None:
        """Before a message with `deaths` is run: should we die now, count it as one death more of this message.

        What merely lay in the hands of workers that died stays at 1, however many they were. A `count` of -1
        takes it back, for a run that was ended in good order.
        """
        ...

    async def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        """End custody until a time (Unix seconds): the broker keeps them and delivers them again then."""
        ...

    async def resize(self, prefetch: int) -> None:
        """Hold up to so many unsettled at once from now on; what is held already may come on top."""
        ...

    async def subscribe(self, queues: Sequence[str]) -> None:
        """Receive from these queues from now on; what is held of others stays held. Raises OperationalError."""
        ...

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        """Keep the leases of all deliveries still held; returns those that were lost (none without leases)."""
        ...

    async def close(self) -> None:
        """Stop receiving: a waiting `receive` returns empty. Unsettled deliveries return to their queues."""
        ...


class Broker(Protocol):
    """A connection to one broker, for one event loop."""

    features: ClassVar[Features]
    #: Remote control and events.
    bus: Bus

    async def open(self) -> None:
        """Connect. Raises OperationalError naming the URL (password masked) when that is not possible."""
        ...

    async def close(self) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once the broker is answerable for every message.

        Raises:
            PublishErrors: some were not taken, the others are safe (`failures`: index -> error; `Refused` where
                no further try can help).
            Refused: the only one can never be taken.
            OperationalError: none is known to be safe (`maybe_accepted` tells whether some may be).
            EncodeError: one of them cannot be written. Nothing was sent: the others may be, without it.
        """
        ...

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> Consumer:
        """Start receiving; `prefetch` is the most that will be held unsettled at once."""
        ...

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        """As `Consumer.renew`, from any connection to the same broker; only asked for with `Features.leases`.

        By it a worker whose event loop is blocked keeps its leases from a thread.
        """
        ...

    async def size(self, queue: str) -> int:
        """How many messages wait in the queue (delayed ones included where they are known)."""
        ...

    async def ready(self, queue: str) -> int:
        """How many messages of the queue could be received now."""
        ...

    async def purge(self, queue: str) -> int:
        """Remove all waiting messages of a queue; returns how many there were."""
        ...

    async def promote(self, queue: str) -> None:
        """Deliver the delayed messages of a queue now, to who moves them elsewhere (where they are known by queue).

        A worker that receives one parks it again: it bears its `eta`.
        """
        ...

    async def recall(self, task_ids: Sequence[str]) -> None:
        """Deliver the delayed messages of these tasks now (where they can be found by task), as `promote` does."""
        ...

    async def revoke(self, task_ids: Sequence[str], until: float) -> None:
        """Remember these ids as revoked until a time (Unix seconds)."""
        ...

    async def revoked(self, task_ids: Sequence[str]) -> Collection[str]:
        """Which of these ids are revoked now."""
        ...

    async def dead(self, limit: int = 1000) -> Sequence[DeadLetter]:
        """The dead letters, newest first."""
        ...

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Put letters back into the dead-letter store (undo of `revive`)."""
        ...

    async def revive(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Take letters out of the dead-letter store, to publish them again or to drop them."""
        ...


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
        ConfigError: no adapter is known for the scheme.
    """
    broker: Broker = load_by_scheme(config.url, BROKERS, "taskq.brokers", "broker")(config)
    return broker


def load_by_scheme(url: str, known: Mapping[str, str], group: str, kind: str) -> Any:
    """Import the class that serves a URL's scheme, from our table or from an installed entry point."""
    scheme = url.partition("://")[0]
    target = known.get(scheme)
    if target is not None:
        module, _, name = target.partition(":")
        return getattr(import_module(module), name)
    for entry in entry_points(group=group):
        if entry.name == scheme:
            return entry.load()
    raise ConfigError(f"no {kind} for URL scheme {scheme!r}: known are {', '.join(sorted(known))}")
