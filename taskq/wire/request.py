"""One run of a task, as the task sees it, and which one is current."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

#: A signature on the wire (wire-format.md 5.1).
WireSignature = dict[str, Any]


@dataclass(slots=True)
class Request:
    """A task message, read (wire-format.md 1.3, 1.6), with Celery's names for what `self.request` has.

    `eta` and `expires` are aware datetimes; `timelimit` is (hard, soft) in seconds, hard first as on the wire;
    `chain` is in wire order: the last element runs next; `headers` are the caller's own headers.
    """

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    retries: int = 0
    timelimit: tuple[float | None, float | None] = (None, None)
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] = field(default_factory=dict)
    callbacks: list[WireSignature] | None = None
    errbacks: list[WireSignature] | None = None
    chain: list[WireSignature] | None = None
    chord: WireSignature | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    correlation_id: str = ""
    reply_to: str = ""
    delivery_info: dict[str, Any] = field(default_factory=dict)
    hostname: str | None = None
    is_eager: bool = False
    #: True once another worker may be running this task too: a worker that was silent for too long lost its lease.
    lease_lost: bool = False
    called_directly: bool = False
    #: Result tuples (wire-format.md 4.5) of the tasks sent by this run, in order.
    children: list[Any] = field(default_factory=list)
    #: Bytes of its body as it was read: inflated, where it came compressed.
    size: int = 0
    #: What may still be sent because of this run (taskq/canvas/budget.py); None until something is.
    budget: Any = None
    #: How many tasks this run has added to its chord.
    added: int = 0
    #: Set by the worker: stores a state of this run, in order with the others; None outside a worker.
    record: Callable[[Any], Awaitable[None] | None] | None = None

    @property
    def name(self) -> str:
        """What logs and monitors show: `shadow` if the caller gave one, else the task's name."""
        return self.shadow or self.task


current: ContextVar[Request | None] = ContextVar("taskq_request", default=None)
