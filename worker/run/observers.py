"""Who is told of what becomes of tasks: the log, events for monitors, metrics. One tuple a kind of event."""

import logging
from collections.abc import Callable
from typing import Any, Final

from taskq.errors import Reject, Retry, WorkerLostError
from taskq.run.ends import Inadmissible, Revoked
from taskq.worker.run.job import Job

logger = logging.getLogger("taskq.worker")

#: The events, by the methods that are called for them.
EVENTS: Final = (
    *("received", "started", "succeeded", "failed", "retried"),
    *("revoked", "rejected", "returned", "dead"),
)


class Observer:
    """Told of each event, when what it means is stored; overrides what it wants to know. Never waits, never fails."""

    def received(self, job: Job, /) -> None:
        """It came in, and is to run."""

    def started(self, job: Job, /) -> None:
        """Its own code begins."""

    def succeeded(self, job: Job, value: Any, /) -> None:
        """It gave a value."""

    def failed(self, job: Job, error: BaseException, /) -> None:
        """It failed."""

    def retried(self, job: Job, retry: Retry, seconds: float, /) -> None:
        """It will be run again in so many seconds."""

    def revoked(self, job: Job, end: Revoked, /) -> None:
        """It was revoked, expired, or ended by remote control."""

    def rejected(self, job: Job, reject: Reject, /) -> None:
        """The task refused its message."""

    def returned(self, job: Job, lost: WorkerLostError | None, /) -> None:
        """It goes back to its queue: the worker stops, or its process was lost."""

    def dead(self, message: Inadmissible, task_id: str | None, /) -> None:
        """A message that can never be run was put away."""


Tell = Callable[..., None]


class Observers:
    """All that are told. An event that nobody wants to know of costs the look at an empty tuple."""

    def __init__(self, *observers: Observer) -> None:
        self._all = list(observers)
        self._told: dict[str, tuple[Tell, ...]] = {}
        self._compose()

    def add(self, observer: Observer) -> None:
        """Tell this one, too."""
        self._all.append(observer)
        self._compose()

    def remove(self, observer: Observer) -> None:
        """Tell this one no longer."""
        self._all.remove(observer)
        self._compose()

    def tell(self, event: str, about: tuple[Any, ...]) -> None:
        """Tell of an event, with the arguments of that method of `Observer`."""
        for tell in self._told[event]:
            try:
                tell(*about)
            except Exception:
                logger.exception("could not tell that a task was %s", event)

    def _compose(self) -> None:
        for event in EVENTS:
            unheard = getattr(Observer, event)
            self._told[event] = tuple(
                getattr(one, event) for one in self._all if getattr(type(one), event) is not unheard
            )
