"""Every error taskq raises.

    TaskqError
    ├── ConfigError (ImproperlyConfigured)   a setting, URL or app that cannot work
    ├── OperationalError                     not now: the broker could not be reached or refused; raised by adapters only
    │   ├── ConnectionLost                   the connection broke: reconnect and try again
    │   ├── BrokerFull                       the broker is alive and takes no more (memory, disk)
    │   ├── Unroutable                       no queue takes the message
    │   └── PublishErrors                    some messages of a batch were not taken
    ├── StoreError (BackendError)            the result store could not be reached or refused
    │   └── SaveErrors                       some results of a batch were not stored
    ├── Refused                              never: broker or store will not take this one message or result
    ├── EncodeError                          arguments or a result cannot be serialized
    ├── DecodeError                          a message cannot be read
    │   ├── ContentDisallowed                its content type is not in accept_content
    │   └── UntrustedMessage                 it is not signed as the settings ask for
    ├── NotRegistered                        no task of that name
    ├── IncompleteStream                     results that depend on each other are not all there yet
    ├── TaskError                            what became of a task
    │   ├── SoftTimeLimitExceeded · TimeLimitExceeded
    │   ├── TaskRevokedError · MaxRetriesExceededError · ChordError · WorkerLostError
    │   └── ResultTimeout (TimeoutError)     raised by AsyncResult.get
    └── Control: Retry · Ignore (Replaced) · Reject   raised by tasks, end in the worker

Names in brackets are Celery's and stay importable, since users catch them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


class TaskqError(Exception):
    """Root of all errors raised by taskq."""


class ConfigError(TaskqError):
    """A setting, URL, option or app that cannot work; the message says what to change."""


ImproperlyConfigured = ConfigError


class OperationalError(TaskqError):
    """The broker could not be reached, or refused.

    `maybe_accepted` is True when the broker may have taken the message all the same (the connection broke
    after it was sent): calling again with the same `task_id` is the way to be sure.
    """

    def __init__(self, message: str = "", *, maybe_accepted: bool = False) -> None:
        super().__init__(message)
        self.maybe_accepted = maybe_accepted


class ConnectionLost(OperationalError):
    """The connection to the broker broke, or could not be made."""


class BrokerFull(OperationalError):
    """The broker is alive and takes no more: out of memory, out of disk."""


class Unroutable(OperationalError):
    """No queue takes the message: it would be lost."""


class Refused(TaskqError):
    """Never: the broker or the result store will not take this one message or result, however often it is tried.

    It is too large, its queue's name is taken by something else or cannot be, or who we are logged in as may not
    write there. `OperationalError` and `StoreError` are "not now" and may be tried again. A refusal is about
    one message or one result alone: others of its batch are not held up by it.
    """


class PublishErrors(OperationalError):
    """Some messages of one batch were not taken: `failures` maps their index to the error.

    `OperationalError` there means that trying this message again may help, `Refused` that it never will.
    """

    def __init__(self, failures: Mapping[int, OperationalError | Refused]) -> None:
        first = next(iter(failures.values()))
        super().__init__(f"{len(failures)} messages were refused, the first: {first}", maybe_accepted=True)
        self.failures = failures


class StoreError(TaskqError):
    """The result store could not be reached, or refused."""


BackendError = StoreError


class SaveErrors(StoreError):
    """Some results of one batch are refused for good, the others are stored: `failures` maps their index to the refusal."""

    def __init__(self, failures: Mapping[int, Refused]) -> None:
        first = next(iter(failures.values()))
        super().__init__(f"{len(failures)} results were refused for good, the first: {first}")
        self.failures = failures


class EncodeError(TaskqError):
    """Arguments or a result cannot be written by the chosen serializer."""


class DecodeError(TaskqError):
    """A message or a result cannot be read."""


class ContentDisallowed(DecodeError):
    """The content type is not in `accept_content`."""


class UntrustedMessage(DecodeError):
    """A message is not signed, or its signature is wrong: nothing it says is to be believed."""


class NotRegistered(TaskqError):
    """No task of that name is registered."""


class IncompleteStream(TaskqError):
    """The tree of results cannot be walked to its end yet: a task in it has not ended."""


class TaskError(TaskqError):
    """What became of a task."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task when its soft time limit has passed; it may be caught to clean up."""


class TimeLimitExceeded(TaskError):
    """The hard time limit has passed: the task was ended. Its argument is the limit in seconds."""


class TaskRevokedError(TaskError):
    """The task was revoked, has expired ("expired") or was terminated."""


class MaxRetriesExceededError(TaskError):
    """The task has been retried `max_retries` times."""


class ChordError(TaskError):
    """A part of the chord's header failed."""


class WorkerLostError(TaskError):
    """The process that ran the task died."""


class ResultTimeout(TaskError, TimeoutError):
    """The result was not there within the timeout of `get`."""


class TaskPredicate(TaskqError):
    """Raised by a task to say how it ends; never reaches a caller."""


class Retry(TaskPredicate):
    """The task is to be run again: raised by `self.retry()`.

    `exc` is why, `when` the time it is due, or the seconds until then.
    """

    def __init__(
        self, message: str = "", exc: BaseException | None = None, when: datetime | float | None = None
    ) -> None:
        super().__init__(message)
        self.exc = exc
        self.when = when
        #: What `Task.retry` was told to change in the call; None = as it was.
        self.args_: Sequence[Any] | None = None
        self.kwargs_: Mapping[str, Any] | None = None
        self.options: dict[str, Any] = {}

    def __str__(self) -> str:
        when = f"in {self.when}s" if isinstance(self.when, int | float) else f"at {self.when}"
        return super().__str__() or f"Retry {when}" + (f": {self.exc!r}" if self.exc is not None else "")


class Ignore(TaskPredicate):
    """The task is done and no state is stored."""


class Replaced(Ignore):
    """The task is done by another signature in its place: raised by `self.replace()`."""

    def __init__(self, signature: Any) -> None:
        super().__init__(f"replaced by {signature!r}")
        self.signature = signature


class Reject(TaskPredicate):
    """The message is refused: to the dead letters, or back to its queue with `requeue=True`."""

    def __init__(self, reason: Any = "", requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue
