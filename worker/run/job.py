"""A delivery that can be run."""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Any

from taskq.task import Task
from taskq.wire.message import Delivery
from taskq.wire.request import Request
from taskq.worker.run.limits import Run


class Place(Enum):
    """Where a run happens."""

    LOOP = "loop"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(slots=True, eq=False)
class Job:
    """A delivery, what it asks for and the task that does it.

    `due` (Unix seconds) is set while it waits for its eta. `runner` is the asyncio task of its run, `started`
    (loop time) when that began, `received` when it came in, where that is counted.
    `handed_back`: the worker stops and ended the run; `acknowledged`: it was settled before the run (`acks_late=False`). `terminated`: it was ended by remote control, with this signal.
    `interruptible` while the task's own code runs, `over` after that; `outside` is its run where that is not on
    the loop.
    """

    delivery: Delivery
    request: Request
    task: Task[Any, Any, Any]
    place: Place
    due: float = 0.0
    runner: "asyncio.Task[None] | None" = None
    started: float = 0.0
    handed_back: bool = False
    acknowledged: bool = False
    terminated: int | None = None
    interruptible: bool = False
    over: bool = False
    outside: "Run | None" = None
    received: float = 0.0
