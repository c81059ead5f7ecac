"""Retries: when an exception is one by itself (`autoretry_for`, wire-format.md 6.3), and what asking for one comes to."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from taskq.errors import MaxRetriesExceededError, Retry, TimeLimitExceeded
from taskq.run.ends import TaskFacts
from taskq.wire.request import Request


def is_retried(task: TaskFacts, error: BaseException) -> bool:
    """Whether the task wants to be retried after this exception. The hard time limit is final, as in Celery."""
    return isinstance(error, tuple(task.autoretry_for)) and not isinstance(
        error, (TimeLimitExceeded, *task.dont_autoretry_for)
    )


def retry_by_itself(task: TaskFacts, request: Request, error: BaseException) -> BaseException:
    """A Retry; the error itself when there are no retries left."""
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        options["countdown"] = backoff(
            task.retry_backoff, request.retries, task.retry_backoff_max, jitter=task.retry_jitter
        )
    return asked_retry(task, request, exc=error, **options)


def asked_retry(
    task: TaskFacts,
    request: Request,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    exc: BaseException | None = None,
    max_retries: int | None = None,
    **options: Any,
) -> BaseException:
    """What asking for a retry comes to: a Retry, or what the task ends with when there are no retries left."""
    limit = task.max_retries if max_retries is None else max_retries
    if limit is not None and request.retries >= limit:
        shown = f"{task.name}[{request.id}] args:{tuple(request.args)!r} kwargs:{dict(request.kwargs)!r}"
        return exc or MaxRetriesExceededError(f"Can't retry {shown}")
    countdown, eta = options.pop("countdown", None), options.pop("eta", None)
    if countdown is None and eta is None:
        countdown = task.default_retry_delay
    retry = Retry("", exc, eta if countdown is None else countdown)
    retry.args_, retry.kwargs_, retry.options = args, kwargs, options
    return retry


def backoff(factor: float, retries: int, maximum: float, *, jitter: bool) -> float:
    """Seconds until a retry: factor, twice that, four times ..., at most `maximum`; jitter: anything up to it."""
    # 2**64 seconds is beyond any maximum; larger powers overflow a float.
    seconds = min(maximum, max(1.0, float(factor)) * 2.0 ** min(retries, 64))
    return random.uniform(0, seconds) if jitter else seconds  # noqa: S311 - jitter, not a secret
