"""When an exception is a retry by itself: `autoretry_for` (wire-format.md 6.3)."""

import random
from typing import Any

from taskq.errors import TimeLimitExceeded
from taskq.task import Task
from taskq.wire.request import Request


def is_retried(task: Task[Any, Any, Any], error: BaseException) -> bool:
    """Whether the task wants to be retried after this exception. The hard time limit is final, as in Celery."""
    return isinstance(error, tuple(task.autoretry_for)) and not isinstance(
        error, (TimeLimitExceeded, *task.dont_autoretry_for)
    )


def retry_by_itself(task: Task[Any, Any, Any], request: Request, error: BaseException) -> None:
    """Always raises: Retry, or what the task ends with when there are no retries left."""
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        options["countdown"] = backoff(
            task.retry_backoff, request.retries, task.retry_backoff_max, jitter=task.retry_jitter
        )
    task.retry(exc=error, **options)


def backoff(factor: float, retries: int, maximum: float, *, jitter: bool) -> float:
    """Seconds until a retry: factor, twice that, four times ..., at most `maximum`; jitter: anything up to it."""
    # 2**64 seconds is beyond any maximum; larger powers overflow a float.
    seconds = min(maximum, max(1.0, float(factor)) * 2.0 ** min(retries, 64))
    return random.uniform(0, seconds) if jitter else seconds  # noqa: S311 - jitter, not a secret
