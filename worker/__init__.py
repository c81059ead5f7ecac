"""The process that runs tasks."""

from taskq.worker.worker import Stop, Worker

__all__ = ["Stop", "Worker"]
