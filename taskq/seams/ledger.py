"""The ledger seam: small shared state that must be exact. Documents, marks, and permits of limits.

It lives where the broker does (in SQLite's file, in Redis, in memory), or where `ledger_url` says. RabbitMQ has no
compare-and-set: with it the result store serves, when that is one of these.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from taskq.errors import ConfigError
from taskq.seams.broker import BrokerConfig, adapter_of
from taskq.seams.store import StoreConfig
from taskq.seams.urls import SCHEMES, Scheme, mask, scheme_of

#: Seconds after which a change is told at the latest.
CHANGE_WITHIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """What an adapter is built from.

    `url` is the whole URL, secrets included; `options` are those of the broker or result store that has this URL;
    `timeout` bounds connecting, in seconds.
    """

    url: str = field(repr=False)  # it may hold a password, as may the options and `ssl`
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 4.0
    ssl: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """What is kept under a name. `version` grows with each change of the kind and is never used twice."""

    version: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """A name that belongs to a holder for `lease` seconds."""

    name: str
    holder: str
    lease: float


@dataclass(frozen=True, slots=True)
class Slot:
    """One of `limit` places at a gate, for `member`."""

    gate: str
    member: str
    limit: int


@dataclass(frozen=True, slots=True)
class Pace:
    """One start at a gate that lets `burst` through at once, and then one each `interval` seconds (GCRA)."""

    gate: str
    interval: float
    burst: int = 1


Want: TypeAlias = Slot | Pace


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: `gate` is in the way, for so many `seconds`; None: until somebody releases a slot of it."""

    gate: str
    seconds: float | None


class Ledger(Protocol):
    """A connection to one ledger, for one event loop. Names are not empty. Every method may raise OperationalError."""

    async def open(self) -> None:
        """Connect. Raises OperationalError naming the URL (password masked) when that is not possible."""
        ...

    async def close(self) -> None: ...

    # -- documents

    async def put(self, kind: str, name: str, value: bytes, *, if_version: int | None = None) -> int | None:
        """Keep a value; its version.

        With `if_version` only if the present version is this one (0: there is none); else None, and nothing is done.
        """
        ...

    async def get(self, kind: str, names: Sequence[str] | None = None) -> Mapping[str, Document]:
        """The documents of these names (default: all of the kind) that are there."""
        ...

    async def drop(self, kind: str, names: Sequence[str]) -> None:
        """Remove documents."""
        ...

    def changes(self, kind: str) -> AsyncGenerator[None, None]:
        """Tells when to read documents of a kind: at once, and within `CHANGE_WITHIN` seconds of each later change.

        Several changes may be told together. Waits through a lost connection.
        """
        ...

    # -- marks

    async def mark(self, marks: Sequence[Mark]) -> Sequence[str | None]:
        """Take names; for each None if it is ours now (it was free, or ours before), else who has it."""
        ...

    async def unmark(self, marks: Sequence[Mark]) -> None:
        """Give names back that their holder still has."""
        ...

    # -- permits

    async def acquire(
        self, asks: Sequence[Sequence[Want]], holder: str, lease: float
    ) -> Sequence[Wait | None]:
        """Ask, one after the other, for all that each ask wants: all of it is granted (None), or nothing.

        Slots are the holder's for `lease` seconds. A slot that the member has already is granted again, whoever held
        it, so that a run which comes again is not in its own way. A wait names a full gate before a time, and else
        the longest time. An ask names each gate once.
        """
        ...

    async def release(self, slots: Sequence[Slot], holder: str) -> None:
        """Give slots back, if this holder still has them."""
        ...

    async def keep(self, holder: str, lease: float) -> None:
        """Extend all slots that the holder still has to `lease` seconds from now."""
        ...


def longest(waits: Sequence[Wait]) -> Wait | None:
    """What an ask is told when these are in its way."""
    full = next((wait for wait in waits if wait.seconds is None), None)
    return full or max(waits, key=lambda wait: wait.seconds or 0.0, default=None)


def find_ledger(named: str | None, broker: BrokerConfig, store: StoreConfig, feature: str) -> LedgerConfig:
    """Where the ledger lives: at a named URL, else where the broker does, else where results do.

    Raises:
        ConfigError: no URL is named, and neither of the two can be one; names the `feature` that needs it.
    """
    for place in (broker, store):
        if place.url == named or (named is None and SCHEMES.get(scheme_of(place.url), Scheme()).ledger):
            return LedgerConfig(place.url, place.options, broker.timeout, place.ssl)
    if named is None:
        raise ConfigError(
            f"{feature} needs a place for shared state, and neither the broker {mask(broker.url)} nor the result "
            f"store {mask(store.url)} is one: set ledger_url, for example to 'redis://localhost/0'"
        )
    return LedgerConfig(named, timeout=broker.timeout)


def open_ledger(config: LedgerConfig) -> Ledger:
    """Build (not yet connect) the ledger of a URL.

    Raises:
        ConfigError: no adapter is known for the scheme.
    """
    ledger: Ledger = adapter_of(config.url, "ledger")(config)
    return ledger
