"""The result seam: what taskq asks of a result store, and how one is found by its URL."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

from taskq.errors import StoreError
from taskq.seams.broker import load_by_scheme
from taskq.wire.result import TaskResult as TaskResult
from taskq.wire.serializers import Serializer, get_serializer

#: URL scheme -> "module:Class". Others register under the entry-point group `taskq.stores`.
STORES: dict[str, str] = {
    "memory": "taskq.broker_adapters.memory.store:MemoryStore",
    "sqlite": "taskq.broker_adapters.sqlite.store:SqliteStore",
    "rpc+amqp": "taskq.broker_adapters.amqp.results:RpcStore",
    "rpc+amqps": "taskq.broker_adapters.amqp.results:RpcStore",
    "rpc+pyamqp": "taskq.broker_adapters.amqp.results:RpcStore",
    "disabled": "taskq.broker_adapters.disabled:DisabledStore",
    "redis": "taskq.broker_adapters.redis.store:RedisStore",
    "rediss": "taskq.broker_adapters.redis.store:RedisStore",
    "redis+socket": "taskq.broker_adapters.redis.store:RedisStore",
    "sentinel": "taskq.broker_adapters.redis.store:RedisStore",
    "valkey": "taskq.broker_adapters.redis.store:RedisStore",
    "valkeys": "taskq.broker_adapters.redis.store:RedisStore",
}

T = TypeVar("T")

#: How long the one who completes a chord has to send what follows it, in seconds, before another may.
CHORD_CLAIM: Final = 6.0
#: Seconds between two looks of a part that came again while its first coming completes the chord.
CLAIM_LOOK: Final = 0.1


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What a store is built from.

    `expires` is how long a result is kept, in seconds (None = for ever); `accept` are the content types that
    may be decoded; `options` are `result_backend_transport_options`; `timeout` bounds connecting, in seconds.
    """

    url: str = field(repr=False)  # it may hold a password, as may the options and `ssl`
    expires: float | None = 86400.0
    serializer: Serializer = field(default_factory=lambda: get_serializer("json"))
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 4.0
    ssl: Mapping[str, Any] | None = field(default=None, repr=False)


class Claimed(Enum):
    """What a store answers to a part whose first coming is completing the chord."""

    BY_ITSELF = "by itself"


#: What `join_many` tells of one part.
Joined = Sequence[TaskResult] | Claimed | Exception | None


class ResultStore(Protocol):
    """A connection to one result store, for one event loop."""

    #: Whether it keeps the parts of chords; if not, `begin_chords` raises StoreError.
    keeps_chords: ClassVar[bool]

    async def open(self) -> None:
        """Connect. Raises StoreError naming the URL (password masked) when that is not possible."""
        ...

    async def close(self) -> None: ...

    async def expect(self, task_ids: Sequence[str]) -> None:
        """Called before these tasks are published: a store that would miss an answer gets ready for it."""
        ...

    @property
    def reply_to(self) -> str:
        """The address results are to be sent to, for stores that send them (rpc); else ""."""
        ...

    async def save(self, results: Sequence[TaskResult]) -> None:
        """Store these states, in this order, and wake those who wait. A stored SUCCESS is never overwritten.

        Raises:
            SaveErrors: some can never be stored (`failures`: index -> `Refused`), the others are.
            StoreError: none is known to be stored; trying again may help.
        """
        ...

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        """The present state of each task, None where nothing is stored."""
        ...

    def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        """The stored state (if there is one), then every later one in order; ends after a final state.

        Nothing is skipped from the moment of the first `anext`. Closing the generator ends the subscription.
        """
        ...

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Remove what is stored for these tasks."""
        ...

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        """Before the members of chords are sent: group id -> how many parts will return. Again changes nothing."""
        ...

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        """One part more will return to a chord: that of this task. Again for the same task changes nothing."""
        ...

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        """Add one part, named by its task and index, to the chord `part.group_id`; None while others are missing.

        The call that completes a chord that has begun, or brings a part to it when one is not a SUCCESS, gets all
        parts so far, ordered by `index`, and has `CHORD_CLAIM` seconds for what follows: to nobody else are they
        given until then. A part that comes twice counts once. When it comes again while its first coming has the
        claim, the call waits: until the chord has ended, or to take over from a completer that died.

        Raises:
            Refused: the part can never be added.
            StoreError: not now.
        """
        ...

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        """`join` for many parts: for each what it returns, or the error it raises. It need not wait.

        Where it would wait for the end of the chord it answers `Claimed.BY_ITSELF`: the caller asks again later.
        """
        return await join_each(self.join, parts)

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        """What follows these chords is safe: later parts are ignored, what was kept for them is removed."""
        ...

    async def save_group(self, group_id: str, data: Any) -> None:
        """Keep a group's members (wire-format.md 4.6) under its id."""
        ...

    async def load_group(self, group_id: str) -> Any:
        """What `save_group` kept, or None."""
        ...

    async def forget_group(self, group_id: str) -> None:
        """Remove what `save_group` kept."""
        ...


def require_chords(url: str) -> None:
    """Make sure that the result store of a URL keeps chords.

    Raises:
        StoreError: it does not; says what to set.
        ConfigError: no store is known for the scheme.
    """
    if not load_by_scheme(url, STORES, "taskq.stores", "result store").keeps_chords:
        kind = url.partition("://")[0].partition("+")[0]
        raise StoreError(
            f"a chord needs a result store that its parts can return to, and {kind}:// keeps nothing: "
            "set result_backend to a store, for example 'redis://localhost/0' or 'sqlite:///.taskq/taskq.db'"
        )


async def join_each(
    join: Callable[[TaskResult, int | None], Awaitable[Sequence[TaskResult] | None]],
    parts: Sequence[tuple[TaskResult, int | None]],
) -> Sequence[Joined]:
    """`join_many` where there is nothing better than many calls of `join` at the same time."""
    joined = await asyncio.gather(*(join(part, index) for part, index in parts), return_exceptions=True)
    for one in joined:
        if isinstance(one, BaseException) and not isinstance(one, Exception):
            raise one
    return cast("Sequence[Joined]", joined)


async def join_when_free(join: Callable[[], Awaitable[T | Claimed]]) -> T:
    """Try to join until the part's first coming has ended the chord, or its claim has."""
    while isinstance(joined := await join(), Claimed):  # noqa: ASYNC110 - its first coming may be on another host
        await asyncio.sleep(CLAIM_LOOK)
    return joined


def open_store(config: StoreConfig) -> ResultStore:
    """Build (not yet connect) the result store of a URL.

    Raises:
        ConfigError: no store is known for the scheme.
    """
    store: ResultStore = load_by_scheme(config.url, STORES, "taskq.stores", "result store")(config)
    return store
