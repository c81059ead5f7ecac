"""A delivery that can be run."""

import asyncio
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from taskq.run.ends import GivenBack, Revoked
from taskq.task import Task
from taskq.wire.message import Delivery
from taskq.wire.request import Request
from taskq.worker.run.limits import Run


class Place(Enum):
    """Where a run happens."""

    LOOP = "loop"
    THREAD = "thread"
    PROCESS = "process"


class JobState(IntEnum):
    """Where a job is in its life; it only ever moves forward."""

    RECEIVED = 0
    #: For its eta, or for its turn at a rate limit.
    WAITING = 1
    #: To be run as soon as there is room, or about to begin.
    READY = 2
    #: The task's own code: this is what remote control may end.
    RUNNING = 3
    #: How it ended is known; what comes of it is being carried out.
    ENDED = 4


@dataclass(slots=True, eq=False)
class Job:
    """A delivery, what it asks for and the task that does it.

    `due` (Unix seconds) is its eta, 0 if that is not in the future. `received`, `started` and `ended` are times on
    the worker's clock. `runner` is the asyncio task of its run, `outside` the run where that is not on the loop.
    `acknowledged`: it was settled before the run (`acks_late=False`). `told` is how it is to end, where somebody
    else said so: remote control, or the worker that stops.
    """

    delivery: Delivery
    request: Request
    task: Task[Any, Any, Any]
    place: Place
    due: float = 0.0
    state: JobState = JobState.RECEIVED
    runner: "asyncio.Task[None] | None" = None
    outside: "Run | None" = None
    told: "Revoked | GivenBack | None" = None
    acknowledged: bool = False
    received: float = 0.0
    started: float = 0.0
    ended: float = 0.0

    def enter(self, state: JobState) -> None:
        """The next state of its life.

        Raises:
            RuntimeError: it has been there, or further, already.
        """
        if state <= self.state:
            raise RuntimeError(
                f"{self.request.task}[{self.request.id}] is {self.state.name}, not {state.name}"
            )
        self.state = state

    @property
    def runtime(self) -> float:
        """How long it ran, in seconds."""
        return self.ended - self.started if self.ended else 0.0
