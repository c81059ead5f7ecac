"""The result seam: what taskq asks of a result store.

`ResultStore` is three smaller ones: `States` keeps what became of tasks, `ChordRecords` the parts of chords,
`GroupRecords` who is in a group. A store that inherits from `ResultStore` gets the last two, and most of the first, as it needs them: the least one
is `save`, `load` and `forget`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Final, TypeVar, cast

from taskq.errors import Refused, StoreError
from taskq.seams.broker import adapter_of
from taskq.seams.retry import Backoff
from taskq.seams.urls import mask, scheme_of
from taskq.states import READY
from taskq.wire.result import TaskResult as TaskResult
from taskq.wire.serializers import Serializer, get_serializer

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


class States(ABC):
    """What became of tasks."""

    #: The address results are to be sent to, for stores that send them (rpc); else "".
    reply_to: str = ""

    async def open(self) -> None:
        """Connect. Raises StoreError naming the URL (password masked) when that is not possible."""

    async def close(self) -> None:
        """Let the connection go; who still waits is told by a StoreError."""

    async def expect(self, task_ids: Sequence[str]) -> None:
        """Called before these tasks are published: a store that would miss an answer gets ready for it."""

    @abstractmethod
    async def save(self, results: Sequence[TaskResult]) -> None:
        """Store these states, in this order, and wake those who wait. A stored SUCCESS is never overwritten.

        Raises:
            SaveErrors: some can never be stored (`failures`: index -> `Refused`), the others are.
            StoreError: none is known to be stored; trying again may help.
        """

    @abstractmethod
    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        """The present state of each task, None where nothing is stored."""

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        """The stored state (if there is one), then every later one in order; ends after a final state.

        Nothing is skipped from the moment of the first `anext`. Closing the generator ends the subscription.
        By default the state is looked at every now and then, so that one that is soon overtaken is not seen.
        """
        last, pauses = None, Backoff(first=0.02, longest=0.5)
        while last is None or last.state not in READY:
            [state] = await self.load([task_id])
            if state is not None and state != last:
                last, pauses = state, Backoff(first=0.02, longest=0.5)
                yield state
            else:
                await asyncio.sleep(pauses.next())

    @abstractmethod
    async def forget(self, task_ids: Sequence[str]) -> None:
        """Remove what is stored for these tasks."""


class ChordRecords:
    """The parts of chords that have returned. By default none are kept."""

    #: Whether it keeps the parts of chords; if not, `begin_chords` raises StoreError.
    keeps_chords: ClassVar[bool] = False

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        """Before the members of chords are sent: group id -> how many parts will return. Again changes nothing."""
        raise StoreError(f"this result store keeps no parts of chords: {', '.join(sizes)} cannot begin")

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        """One part more will return to a chord: that of this task. Again for the same task changes nothing."""
        raise StoreError(f"this result store keeps no parts of chords: {group_id} cannot get {task_id}")

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:  # noqa: ARG002 - the seam's signature
        """Add one part, named by its task and index, to the chord `part.group_id`; None while others are missing.

        The call that completes a chord that has begun, or brings a part to it when one is not a SUCCESS, gets all
        parts so far, ordered by `index`, and has `CHORD_CLAIM` seconds for what follows: to nobody else are they
        given until then. A part that comes twice counts once. When it comes again while its first coming has the
        claim, the call waits: until the chord has ended, or to take over from a completer that died.

        Raises:
            Refused: the part can never be added.
            StoreError: not now.
        """
        return None

    async def join_many(self, parts: Sequence[tuple[TaskResult, int | None]]) -> Sequence[Joined]:
        """`join` for many parts: for each what it returns, or the error it raises. It need not wait.

        Where it would wait for the end of the chord it answers `Claimed.BY_ITSELF`: the caller asks again later.
        """
        return await join_each(self.join, parts)

    async def end_chords(self, group_ids: Sequence[str]) -> None:
        """What follows these chords is safe: later parts are ignored, what was kept for them is removed."""


class GroupRecords(States):
    """The members of groups, so that one can be found again by its id. By default they are kept as states are."""

    async def save_group(self, group_id: str, data: Any) -> None:
        """Keep a group's members (wire-format.md 4.6) under its id."""
        await self.save([TaskResult(_GROUP + group_id, "GROUP", data)])

    async def load_group(self, group_id: str) -> Any:
        """What `save_group` kept, or None."""
        [kept] = await self.load([_GROUP + group_id])
        return None if kept is None else kept.value

    async def forget_group(self, group_id: str) -> None:
        """Remove what `save_group` kept."""
        await self.forget([_GROUP + group_id])


class ResultStore(GroupRecords, ChordRecords):
    """A connection to one result store, for one event loop."""


#: What the ids of groups follow where they are kept as states.
_GROUP: Final = "group:"


def refuse_id(task_id: Any) -> Refused | None:
    """Why nothing can be stored under this id: it is no text, or none that can be written."""
    if isinstance(task_id, str):
        try:
            task_id.encode()
        except UnicodeEncodeError:
            pass
        else:
            return None
    return Refused(f"{task_id!r:.100} is no id of a task: nothing can be stored under it")


def storable(results: Sequence[TaskResult], failures: dict[int, Refused]) -> list[tuple[int, TaskResult]]:
    """The results whose ids can be stored, with their index; the others are added to the failures."""
    kept = []
    for index, result in enumerate(results):
        if (refused := refuse_id(result.task_id)) is not None:
            failures[index] = refused
        else:
            kept.append((index, result))
    return kept


def check_part(part: TaskResult, index: Any) -> None:
    """Raises Refused for a part that no chord can take: its ids are no text, or its place is no number of a place."""
    for one in (part.task_id, part.group_id):
        if (refused := refuse_id(one)) is not None:
            raise refused
    if index is not None and not (isinstance(index, int) and abs(index) < MOST_PLACES):
        raise Refused(f"{index!r:.100} is no place in a chord")


#: Places in a chord are counted as floating point numbers in some stores: beyond this they are not exact.
MOST_PLACES: Final = 2**53


def require_chords(url: str) -> None:
    """Make sure that the result store of a URL keeps chords.

    Raises:
        StoreError: it does not; says what to set.
        ConfigError: no store is known for the scheme.
    """
    if not adapter_of(url, "store").keeps_chords:
        kind = scheme_of(mask(url)).partition("+")[0]
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
        ConfigError: no store is known for the scheme, or the URL cannot work.
    """
    store: ResultStore = adapter_of(config.url, "store")(config)
    return store
