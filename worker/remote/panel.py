"""What commands of remote control work on, and the table they are found in."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from taskq.app import TaskQ
from taskq.seams.broker import Broker, Consumer
from taskq.worker.intake.intake import Intake
from taskq.worker.intake.throttle import Throttle
from taskq.worker.process.autoscaler import Autoscaler
from taskq.worker.remote.events import EventSender, TaskEvents
from taskq.worker.remote.revoker import Revoker
from taskq.worker.run.runlog import RunLog
from taskq.worker.run.runner import Runner

if TYPE_CHECKING:
    from taskq.worker.worker import Worker

#: A command: its arguments by name; what it returns, awaited if need be, is the reply.
Handler: TypeAlias = Callable[..., Any]
Kind: TypeAlias = Literal["inspect", "control"]


@dataclass(slots=True)
class Panel:
    """The parts of a worker, as far as remote control reaches. `began` is on the loop's clock."""

    app: TaskQ
    worker: "Worker"
    broker: Broker
    consumer: Consumer
    intake: Intake
    throttle: Throttle
    runner: Runner
    autoscaler: Autoscaler
    revoker: Revoker
    events: EventSender
    log: RunLog
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def hostname(self) -> str:
        """The node name."""
        return self.worker.hostname

    @property
    def queues(self) -> list[str]:
        """Names of the queues it takes from."""
        return self.worker.queues

    @property
    def tells_events(self) -> bool:
        """Whether events of tasks are sent."""
        return self.log.events is not None

    def tell_events(self, on: bool) -> None:  # noqa: FBT001 - a switch
        """Send events of tasks, or no longer."""
        self.log.events = TaskEvents(self.events) if on else None


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
