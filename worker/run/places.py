"""Where a task's runs happen: on the loop, in a thread, in a process."""

from typing import Any

from taskq.config.settings import Settings
from taskq.task import Task
from taskq.wire.request import Request
from taskq.worker.pools.processes import where_found
from taskq.worker.run.job import Place
from taskq.worker.run.limits import Limits


def place_of(request: Request, task: Task[Any, Any, Any], conf: Settings) -> Place:
    """Coroutines on the loop; plain functions as `run_in` says.

    Without `run_in` those with a hard time limit go to a process, which can be killed, if one can find them, and so do
    all with `worker_run_in = "process"`; the others go to a thread.
    """
    if task.is_async:
        return Place.LOOP
    if task.run_in is not None:
        return Place(task.run_in)
    limits = Limits.of(request, task, conf)
    wanted = conf.worker_run_in == "process" or (limits is not None and limits.hard is not None)
    return Place.PROCESS if wanted and where_found(task) is not None else Place.THREAD
