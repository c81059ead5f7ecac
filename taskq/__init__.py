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
    from taskq.registry import current_app
    from taskq.request import Request
    from taskq.results import AsyncResult, GroupResult
    from taskq.signature import Signature
    from taskq.store import TaskResult
    from taskq.task import Task

__all__ = [
    "AsyncResult",
    "ChordError",
    "ConfigError",
    "GroupResult",
    "Ignore",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "Reject",
    "Request",
    "ResultTimeout",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
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
    "current_app",
    "get_task_logger",
    "group",
    "shared_task",
]

_HOMES = {
    "AsyncResult": "taskq.results",
    "ChordError": "taskq.errors",
    "ConfigError": "taskq.errors",
    "GroupResult": "taskq.results",
    "Ignore": "taskq.errors",
    "MaxRetriesExceededError": "taskq.errors",
    "NotRegistered": "taskq.errors",
    "OperationalError": "taskq.errors",
    "Reject": "taskq.errors",
    "Request": "taskq.request",
    "ResultTimeout": "taskq.errors",
    "Retry": "taskq.errors",
    "Signature": "taskq.signature",
    "SoftTimeLimitExceeded": "taskq.errors",
    "StoreError": "taskq.errors",
    "Task": "taskq.task",
    "TaskQ": "taskq.app",
    "TaskResult": "taskq.store",
    "TaskRevokedError": "taskq.errors",
    "TaskqError": "taskq.errors",
    "TimeLimitExceeded": "taskq.errors",
    "chain": "taskq.canvas",
    "chord": "taskq.canvas",
    "current_app": "taskq.registry",
    "get_task_logger": "taskq.logs",
    "group": "taskq.canvas",
    "shared_task": "taskq.app",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
