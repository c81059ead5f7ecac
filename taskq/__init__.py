"""taskq: Celery's Calling API and wire protocol, native to asyncio."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskq.version import VERSION as __version__  # noqa: N811 - the module attribute's customary name

# What a name needs is imported when the name is first asked for: `taskq --help` needs none of it.
if TYPE_CHECKING:
    from taskq.app import TaskQ, current_app, shared_task
    from taskq.canvas.shapes import chain, chord, chunks, group, maybe_signature, signature, xmap, xstarmap
    from taskq.canvas.signature import Signature
    from taskq.canvas.stamps import StampingVisitor
    from taskq.errors import (
        ChordError,
        ConfigError,
        Ignore,
        IncompleteStream,
        MaxRetriesExceededError,
        NotRegistered,
        OperationalError,
        Refused,
        Reject,
        ResultTimeout,
        Retry,
        SoftTimeLimitExceeded,
        StoreError,
        TaskqError,
        TaskRevokedError,
        TimeLimitExceeded,
    )
    from taskq.logs import get_task_logger
    from taskq.results.handles import AsyncResult, GroupResult, ResultSet
    from taskq.task import Task
    from taskq.wire.request import Request
    from taskq.wire.result import TaskResult

__all__ = [
    "AsyncResult",
    "ChordError",
    "ConfigError",
    "GroupResult",
    "Ignore",
    "IncompleteStream",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "Refused",
    "Reject",
    "Request",
    "ResultSet",
    "ResultTimeout",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "StampingVisitor",
    "StoreError",
    "Task",
    "TaskQ",
    "TaskResult",
    "TaskRevokedError",
    "TaskqError",
    "TimeLimitExceeded",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "get_task_logger",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "xmap",
    "xstarmap",
]

_HOMES = {
    "AsyncResult": "taskq.results.handles",
    "ChordError": "taskq.errors",
    "ConfigError": "taskq.errors",
    "GroupResult": "taskq.results.handles",
    "Ignore": "taskq.errors",
    "IncompleteStream": "taskq.errors",
    "MaxRetriesExceededError": "taskq.errors",
    "NotRegistered": "taskq.errors",
    "OperationalError": "taskq.errors",
    "Refused": "taskq.errors",
    "Reject": "taskq.errors",
    "Request": "taskq.wire.request",
    "ResultSet": "taskq.results.handles",
    "ResultTimeout": "taskq.errors",
    "Retry": "taskq.errors",
    "Signature": "taskq.canvas.signature",
    "SoftTimeLimitExceeded": "taskq.errors",
    "StampingVisitor": "taskq.canvas.stamps",
    "StoreError": "taskq.errors",
    "Task": "taskq.task",
    "TaskQ": "taskq.app",
    "TaskResult": "taskq.wire.result",
    "TaskRevokedError": "taskq.errors",
    "TaskqError": "taskq.errors",
    "TimeLimitExceeded": "taskq.errors",
    "chain": "taskq.canvas.shapes",
    "chord": "taskq.canvas.shapes",
    "chunks": "taskq.canvas.shapes",
    "current_app": "taskq.app",
    "get_task_logger": "taskq.logs",
    "group": "taskq.canvas.shapes",
    "maybe_signature": "taskq.canvas.shapes",
    "shared_task": "taskq.app",
    "signature": "taskq.canvas.shapes",
    "xmap": "taskq.canvas.shapes",
    "xstarmap": "taskq.canvas.shapes",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
