"""The process that runs tasks."""

from taskq.worker.worker import Worker

__all__ = ["Worker"]
