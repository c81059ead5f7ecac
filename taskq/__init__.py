"""taskq: Celery's Calling API and wire protocol, native to asyncio."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskq.version import VERSION as __version__  # noqa: N811 - the module attribute's customary name

# What a name needs is imported when the name is first asked for: `taskq --help` needs none of it.
if TYPE_CHECKING:
    from taskq.app import TaskQ, shared_task
    from taskq.canvas import chain, chord, group
    from taskq.errors import (
        ChordError,
        ConfigError,
        Ignore,
        IncompleteStream,
        MaxRetriesExceededError,
        NotRegistered,
        OperationalError,
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
    from taskq.primitives import chunks, maybe_signature, signature, xmap, xstarmap
    from taskq.registry import current_app
    from taskq.request import Request
    from taskq.result_sets import ResultSet
    from taskq.results import AsyncResult, GroupResult
    from taskq.signatures import Signature
    from taskq.stamps import StampingVisitor
    from taskq.store import TaskResult
    from taskq.task import Task

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
    "AsyncResult": "taskq.results",
    "ChordError": "taskq.errors",
    "ConfigError": "taskq.errors",
    "GroupResult": "taskq.results",
    "Ignore": "taskq.errors",
    "IncompleteStream": "taskq.errors",
    "MaxRetriesExceededError": "taskq.errors",
    "NotRegistered": "taskq.errors",
    "OperationalError": "taskq.errors",
    "Reject": "taskq.errors",
    "Request": "taskq.request",
    "ResultSet": "taskq.result_sets",
    "ResultTimeout": "taskq.errors",
    "Retry": "taskq.errors",
    "Signature": "taskq.signatures",
    "SoftTimeLimitExceeded": "taskq.errors",
    "StampingVisitor": "taskq.stamps",
    "StoreError": "taskq.errors",
    "Task": "taskq.task",
    "TaskQ": "taskq.app",
    "TaskResult": "taskq.store",
    "TaskRevokedError": "taskq.errors",
    "TaskqError": "taskq.errors",
    "TimeLimitExceeded": "taskq.errors",
    "chain": "taskq.canvas",
    "chord": "taskq.canvas",
    "chunks": "taskq.primitives",
    "current_app": "taskq.registry",
    "get_task_logger": "taskq.logs",
    "group": "taskq.canvas",
    "maybe_signature": "taskq.primitives",
    "shared_task": "taskq.app",
    "signature": "taskq.primitives",
    "xmap": "taskq.primitives",
    "xstarmap": "taskq.primitives",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
