"""What a run may do to the world before it ends."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from taskq.seams.store import TaskResult
from taskq.wire.message import Delivery


@dataclass(slots=True)
class Effects:
    """The completer's verbs: each in turn with the outcomes, tried until it works; `save` is `record` out of turn."""

    record: Callable[[TaskResult], Awaitable[None]]
    report: Callable[[TaskResult], Awaitable[None] | None]
    acknowledge: Callable[[Delivery], Awaitable[None]]
    join: Callable[[TaskResult, int | None], Awaitable[Sequence[TaskResult] | None]]
    save: Callable[[TaskResult], Awaitable[None]]
