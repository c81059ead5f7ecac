"""Where everything is right now: the stacks of all threads and of all running coroutines."""

import asyncio
import io
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from taskq.worker.run.drive import CoroutineRun
from taskq.worker.run.job import Job


def describe_stacks(loop: asyncio.AbstractEventLoop, running: Iterable[Job]) -> str:
    """The stacks as text, coroutines of tasks by the task's name and id. May be called from a signal handler."""
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the way Python offers
        out.write(f"--- thread {names.get(ident, ident)}\n")
        traceback.print_stack(frame, file=out)
    jobs = {job.runner: job for job in running}
    for task in asyncio.all_tasks(loop):
        job = jobs.get(task)
        title = task.get_name() if job is None else f"{job.request.name}[{job.request.id}]"
        out.write(f"--- coroutine {title}\n")
        for frame in _frames(task.get_coro()):
            traceback.print_stack(frame, limit=1, file=out)
    return out.getvalue()


def _frames(awaited: Any) -> Iterator[FrameType]:
    """From the outermost coroutine to the await it is at: `Task.get_stack` knows the outermost alone."""
    while awaited is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), None)
        frame = None if kind is None else getattr(awaited, f"{kind}_frame")
        if frame is None:
            return
        yield frame
        owner = frame.f_locals.get("self")
        if kind == "gi" and isinstance(owner, CoroutineRun):
            awaited = owner.coroutine
        else:
            awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
