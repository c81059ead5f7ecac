"""taskq: Celery's Calling API and wire protocol, native to asyncio."""

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
from taskq.registry import current_app
from taskq.request import Request
from taskq.results import AsyncResult, GroupResult
from taskq.signature import Signature
from taskq.store import TaskResult
from taskq.task import Task
from taskq.version import VERSION as __version__  # noqa: N811 - the module attribute's customary name

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
    "group",
    "shared_task",
]
