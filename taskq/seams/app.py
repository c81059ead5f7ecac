"""The app seam: what signatures, tasks, runs, handles and remote control ask of the app they belong to.

Nothing here is imported to run it: the app is handed in, and what knows it by this protocol stays free of what it does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Unpack

from taskq.options import CallOptions
from taskq.wire.arguments import ArgumentCheck
from taskq.wire.message import Message
from taskq.wire.request import Request

if TYPE_CHECKING:
    from taskq.clock import LamportClock
    from taskq.config.settings import Settings
    from taskq.seams.broker import Broker
    from taskq.seams.connection import Connection
    from taskq.seams.store import ResultStore


class KnownTask(Protocol):
    """A task that is registered here, as far as what follows a run needs to know it."""

    name: str
    bind: bool
    is_async: bool
    arguments: ArgumentCheck
    run: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call its function here and now."""
        ...


class Sent(Protocol):
    """The handle of what is sent: one task's, or a group's."""

    id: str

    def as_tuple(self) -> list[Any]:
        """Its wire form (wire-format.md 4.5)."""
        ...


class Prepared(NamedTuple):
    """A signature made ready: messages to publish, the handle of its result, and chords to begin before that."""

    messages: list[Message]
    result: Sent
    chords: Mapping[str, int]


class Revoking(Protocol):
    """Remote control, as far as handles and events know it."""

    async def revoke(self, task_id: Sequence[str], *, terminate: bool, signal: str, expires: float) -> Any:
        """See `Control.revoke`."""
        ...

    async def heartbeat(self) -> Any:
        """See `Control.heartbeat`."""
        ...


class Pool(Protocol):
    """Celery's way to reuse a connection for many calls."""

    def acquire(self) -> AbstractAsyncContextManager["Connection"]:
        """The loop's connection, opened. Raises OperationalError."""
        ...


class App(Protocol):
    """An app. Signatures and handles are `Any` here: their modules are above this one, and name it."""

    conf: "Settings"
    clock: "LamportClock"
    #: Our reply address, constant for the process.
    oid: str

    @property
    def pool(self) -> Pool:
        """One connection for each event loop."""
        ...

    @property
    def control(self) -> Revoking:
        """Remote control of workers."""
        ...

    # --- sending --------------------------------------------------------------------------------------------

    async def send(self, signature: Any, *, once: str | None = None) -> Any:
        """Publish what a signature stands for; the handle of its result. See `TaskQ.send`."""
        ...

    async def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Send a task by its name; the handle of its result."""
        ...

    def apply(self, signature: Any) -> Awaitable[Any]:
        """Run a signature here and now; await it for a handle that already has the result."""
        ...

    def blocking(self, signature: Any) -> Any:
        """The calling verbs of a signature for code without an event loop; see taskq/sync.py."""
        ...

    def prepare(self, signature: Any, reply_to: str = "", parent: Request | None = None) -> Prepared:
        """The messages a signature stands for, and the handle of its result. Nothing is sent."""
        ...

    def encoded(self, signature: Any, parent: Request | None, reply_to: str) -> Message:
        """The message of a single task. Raises TypeError or EncodeError."""
        ...

    async def publish(
        self, messages: Sequence[Message], options: Mapping[str, Any], connection: "Connection"
    ) -> None:
        """Hand messages to the broker, with the retry policy of the options or the settings."""
        ...

    # --- tasks and connections ------------------------------------------------------------------------------

    @property
    def tasks(self) -> Mapping[str, KnownTask]:
        """All registered tasks by name."""
        ...

    def find_task(self, name: str) -> KnownTask | None:
        """The task of that name, or None."""
        ...

    def require_task(self, name: str) -> KnownTask:
        """The task of that name. Raises NotRegistered."""
        ...

    def signature(
        self, task: Any, args: Sequence[Any] | None = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """A signature by the task's name, or from its wire form."""
        ...

    def AsyncResult(self, task_id: str) -> Any:  # noqa: N802 - Celery's name
        """The handle of a task by its id."""
        ...

    def shared_connection(self) -> "Connection":
        """The connections of the running loop (made, not yet opened)."""
        ...

    async def open_broker(self) -> "Broker":
        """The broker of the running loop, connected. Raises OperationalError."""
        ...

    async def open_store(self) -> "ResultStore":
        """The result store of the running loop, connected. Raises StoreError."""
        ...
