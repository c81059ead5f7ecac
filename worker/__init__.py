"""The process that runs tasks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported when it is asked for: a part of the worker costs what it imports itself.
if TYPE_CHECKING:
    from taskq.worker.worker import Worker

__all__ = ["Worker"]


def __getattr__(name: str) -> Any:
    if name != "Worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("taskq.worker.worker").Worker
