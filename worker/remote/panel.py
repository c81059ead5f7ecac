"""What commands of remote control work on, and the table they are found in."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from taskq.app import TaskQ
from taskq.worker.effects.entries import Links
from taskq.worker.intake.intake import Intake
from taskq.worker.intake.throttle import Throttle
from taskq.worker.process.autoscaler import Autoscaler
from taskq.worker.remote.events import EventSender, TaskEvents
from taskq.worker.remote.revoker import Revoker
from taskq.worker.run.observers import Observers
from taskq.worker.run.runner import Runner

#: A command: its arguments by name; what it returns, awaited if need be, is the reply.
Handler: TypeAlias = Callable[..., Any]
Kind: TypeAlias = Literal["inspect", "control"]


class Steered(Protocol):
    """The worker, as far as remote control knows it: its name, its queues, its threads, and how to stop it."""

    hostname: str
    queues: list[str]
    threads: int

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """The parts that take jobs, hold them back and run them."""

    intake: Intake
    throttle: Throttle
    runner: Runner
    autoscaler: Autoscaler


class Panel:
    """The parts of a worker, as far as remote control reaches. `began` is on the loop's clock."""

    def __init__(
        self,
        app: TaskQ,
        node: Steered,
        links: Links,
        work: Work,
        revoker: Revoker,
        *,
        events: EventSender,
        observers: Observers,
    ) -> None:
        self.app = app
        self.node = node
        self.broker = links.broker
        self.consumer = links.consumer
        self.intake = work.intake
        self.throttle = work.throttle
        self.runner = work.runner
        self.autoscaler = work.autoscaler
        self.revoker = revoker
        self.events = events
        self.began = asyncio.get_running_loop().time()
        self._observers = observers
        self._task_events: TaskEvents | None = None

    @property
    def hostname(self) -> str:
        """The node name."""
        return self.node.hostname

    @property
    def queues(self) -> list[str]:
        """Names of the queues it takes from."""
        return self.node.queues

    @property
    def tells_events(self) -> bool:
        """Whether events of tasks are sent."""
        return self._task_events is not None

    def tell_events(self, on: bool) -> None:  # noqa: FBT001 - a switch
        """Send events of tasks, or no longer."""
        if self._task_events is not None:
            self._observers.remove(self._task_events)
        self._task_events = TaskEvents(self.events) if on else None
        if self._task_events is not None:
            self._observers.add(self._task_events)


class NoReply(Exception):
    """Raised by a command that answers nothing."""


class PanelCommand(NamedTuple):
    """A command in the table.

    `kind`, `arguments` and `summary` are for people: as what, with which arguments by position (`?`: may be left out, `*`:
    takes the rest) and to what end `taskq` gives it. None: it does not.
    """

    kind: Kind | None
    handler: Handler
    arguments: Sequence[str]
    summary: str


COMMANDS: dict[str, PanelCommand] = {}


def command(kind: Kind | None, *aliases: str, arguments: str = "") -> Callable[[Handler], Handler]:
    """Enter a function into the table, under its name and Celery's older ones, which are for programs alone."""

    def enter(handler: Handler) -> Handler:
        summary = (inspect.getdoc(handler) or "").partition("\n")[0]
        COMMANDS[handler.__name__] = PanelCommand(kind, handler, arguments.split(), summary)
        for alias in aliases:
            COMMANDS[alias] = PanelCommand(None, handler, (), summary)
        return handler

    return enter
