"""A run as decisions see it: what it was, and how it ended.

Whoever runs the task says how it ended; `taskq.run.decide` says what comes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

from taskq.errors import TaskqError, WorkerLostError
from taskq.wire.message import Delivery
from taskq.wire.request import Request

#: Arguments of Celery's TaskRevokedError (wire-format.md 4.4).
EXPIRED, REVOKED, TERMINATED = "expired", "revoked", "terminated"


class TaskFacts(Protocol):
    """What a task says about its runs; see `taskq.task.TaskOptions`."""

    @property
    def name(self) -> str: ...
    @property
    def max_retries(self) -> int | None: ...
    @property
    def default_retry_delay(self) -> float: ...
    @property
    def autoretry_for(self) -> Sequence[type[BaseException]]: ...
    @property
    def dont_autoretry_for(self) -> Sequence[type[BaseException]]: ...
    @property
    def retry_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def retry_backoff(self) -> bool | float: ...
    @property
    def retry_backoff_max(self) -> float: ...
    @property
    def retry_jitter(self) -> bool: ...
    @property
    def ignore_result(self) -> bool | None: ...
    @property
    def store_errors_even_if_ignored(self) -> bool | None: ...


class RunFacts(Protocol):
    """One run: the delivery it came with, what it was asked for, its task, and whether it was acknowledged before it."""

    @property
    def delivery(self) -> Delivery: ...
    @property
    def request(self) -> Request: ...
    @property
    def task(self) -> TaskFacts: ...
    @property
    def acknowledged(self) -> bool: ...


@final
@dataclass(slots=True)
class Returned:
    """It gave a value."""

    value: Any


@dataclass(slots=True)
class Raised:
    """It raised: an error, or what says how it is to end (Retry, Ignore, Replaced, Reject). `text` is the traceback."""

    error: BaseException
    text: str | None = None


@dataclass(slots=True)
class Failed:
    """It failed whatever the task says about retries: its result cannot be stored, or what follows it cannot be written."""

    error: BaseException
    text: str | None = None


@dataclass(slots=True)
class Broken:
    """It could not be run, or its end not be told, for a bug of ours or a poisoned message."""

    error: Exception


@dataclass(slots=True)
class Revoked:
    """It is not to run: `why` is one of EXPIRED, REVOKED and TERMINATED; `signum` is the signal of a termination."""

    why: str
    signum: int | None = None


@dataclass(slots=True)
class Lost:
    """Its process died under it."""

    error: WorkerLostError


@dataclass(slots=True)
class GivenBack:
    """The worker stops, and ended it or has not begun it. `began` tells which."""

    began: bool = True


#: Every end but that by a value.
OtherEnd: TypeAlias = Raised | Failed | Broken | Revoked | Lost | GivenBack
End: TypeAlias = Returned | OtherEnd


@dataclass(slots=True)
class Inadmissible:
    """A message that can never be run: `error` is for the caller, `reason` goes with the dead letter."""

    delivery: Delivery
    error: TaskqError
    reason: str
    request: Request | None = None

    def __post_init__(self) -> None:
        # Text from a broken message may hold half a surrogate pair, which no log or store can write.
        self.reason = self.reason.encode("utf-8", "backslashreplace").decode("utf-8")
