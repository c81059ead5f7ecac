"""Hooks by Celery's names: `@task_success.connect`. Receivers are called with `sender` and keywords.

A receiver may be a plain function or a coroutine function; an exception in one is logged and changes nothing. So is
a CancelledError of its own: something that it awaited was cancelled elsewhere.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from taskq.wire.message import Message

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class Signal:
    """A list of receivers. `sender` filters by the task's name (or by identity of what sends)."""

    __slots__ = ("name", "receivers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.receivers: list[tuple[Callable[..., Any], Any]] = []

    def connect(self, receiver: Callable[..., Any] | None = None, *, sender: Any = None) -> Any:
        """Add a receiver; use it bare, called with `sender=`, or with the function."""

        def add(function: F) -> F:
            self.receivers.append((function, sender))
            return function

        return add if receiver is None else add(receiver)

    def disconnect(self, receiver: Callable[..., Any]) -> bool:
        """Remove a receiver; tells whether it was there."""
        kept = [(function, sender) for function, sender in self.receivers if function is not receiver]
        removed = len(kept) < len(self.receivers)
        self.receivers[:] = kept
        return removed

    async def send(self, sender: Any, **arguments: Any) -> None:
        """Call the receivers that want this sender, one after the other."""
        for receiver, wanted in list(self.receivers):
            if wanted is not None and wanted is not sender and wanted != getattr(sender, "name", sender):
                continue
            try:
                returned = receiver(sender=sender, **arguments)
                if inspect.isawaitable(returned):
                    await returned
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _is_told_to_end():
                    raise
                logger.exception("a receiver of the signal %s failed: %r", self.name, receiver)


def _is_told_to_end() -> bool:
    """Whether a cancellation is meant for us, and not only the receiver's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
task_received = Signal("task_received")
task_prerun = Signal("task_prerun")
task_postrun = Signal("task_postrun")
task_success = Signal("task_success")
task_failure = Signal("task_failure")
task_retry = Signal("task_retry")
task_revoked = Signal("task_revoked")
task_rejected = Signal("task_rejected")
task_unknown = Signal("task_unknown")
worker_init = Signal("worker_init")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down")
worker_shutdown = Signal("worker_shutdown")
setup_logging = Signal("setup_logging")
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")


async def announce(signal: Signal, messages: Sequence[Message]) -> None:
    """Send a signal about publishing for each message, with Celery's arguments."""
    for message in messages:
        await signal.send(
            message.headers["task"],
            headers=message.headers,
            body=message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
        )
