"""Exceptions as data and back (wire-format.md 4.4).

What is read may come from anyone who can write to the broker: it names a class, and only exception classes
that are already imported are ever called (CVE-2021-23727 was a name that led to `os.system`).
"""

import builtins
import sys
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from taskq import errors
from taskq.errors import EncodeError, TaskError
from taskq.wire.repr import saferepr
from taskq.wire.serializers import Serializer, get_serializer

#: Our errors under the names Celery's own programs know: Celery's module -> {name there: class here}.
_CELERY_NAMES: dict[str, dict[str, type[Exception]]] = {
    "celery.exceptions": {
        "CeleryError": errors.TaskqError,
        "ImproperlyConfigured": errors.ConfigError,
        "BackendError": errors.StoreError,
        "NotRegistered": errors.NotRegistered,
        "TaskError": errors.TaskError,
        "TaskRevokedError": errors.TaskRevokedError,
        "MaxRetriesExceededError": errors.MaxRetriesExceededError,
        "ChordError": errors.ChordError,
        "TimeoutError": errors.ResultTimeout,
        "Retry": errors.Retry,
        "Ignore": errors.Ignore,
        "Reject": errors.Reject,
    },
    "billiard.exceptions": {
        "SoftTimeLimitExceeded": errors.SoftTimeLimitExceeded,
        "TimeLimitExceeded": errors.TimeLimitExceeded,
        "WorkerLostError": errors.WorkerLostError,
    },
    "kombu.exceptions": {
        "OperationalError": errors.OperationalError,
        "EncodeError": errors.EncodeError,
        "DecodeError": errors.DecodeError,
        "ContentDisallowed": errors.ContentDisallowed,
    },
}
_WRITTEN_AS: dict[type[BaseException], tuple[str, str]] = {
    cls: (module, name) for module, names in _CELERY_NAMES.items() for name, cls in names.items()
}


def encode_exception(exc: BaseException, serializer: Serializer | None = None) -> dict[str, Any]:
    """An exception as Celery stores it; arguments that `serializer` (json) cannot write become their repr.

    taskq's own errors go by the names of Celery's, so that Celery's programs raise the classes they know.
    """
    cls = type(exc)
    module, name = _WRITTEN_AS.get(cls) or (cls.__module__, cls.__qualname__)
    return {
        "exc_type": name,
        "exc_message": _writable(_args_of(exc), serializer or get_serializer("json")),
        "exc_module": module,
    }


def decode_exception(data: Any) -> BaseException:
    """The exception that was stored, as an instance of its own class where that is known here.

    Otherwise of a class of that name, derived from TaskError. Never imports, never raises, never calls anything
    but the class of an exception.
    """
    if isinstance(data, BaseException):  # a result written by pickle holds the exception itself
        return data
    if not isinstance(data, Mapping) or not isinstance(data.get("exc_type"), str):
        return TaskError(data)
    name, module, args = data["exc_type"], data.get("exc_module"), _arguments(data.get("exc_message"))
    cls = _known_class(module, name) if isinstance(module, str) else None
    rebuilt = None if cls is None else _rebuilt(cls, args)
    return _invented(str(module), name)(*args) if rebuilt is None else rebuilt


def _args_of(exc: BaseException) -> tuple[Any, ...]:
    """Its arguments; of a group, the exceptions in it as data."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.message, [encode_exception(inner) for inner in exc.exceptions]
    return exc.args


def _writable(args: tuple[Any, ...], serializer: Serializer) -> list[Any]:
    try:
        serializer.dumps(args)
    except EncodeError:
        return [_writable_one(arg, serializer) for arg in args]
    return list(args)


def _writable_one(arg: Any, serializer: Serializer) -> Any:
    try:
        serializer.dumps(arg)
    except EncodeError:
        return saferepr(arg)
    return arg


def _arguments(message: Any) -> tuple[Any, ...]:
    if isinstance(message, list | tuple):
        return tuple(message)
    return () if message is None else (message,)


def _known_class(module: str, name: str) -> type[Exception] | None:
    ours = _CELERY_NAMES.get(module, {}).get(name)
    if ours is not None:
        return ours
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return None
    for part in name.split("."):
        # The plain dictionary: no property, no lazy import and no __getattr__ is woken on the way.
        found = vars(found).get(part)
        if not isinstance(found, type):
            return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _rebuilt(cls: type[Exception], args: tuple[Any, ...]) -> BaseException | None:
    """An instance with these args, without its __init__ if that wants others; None if it is of no use then."""
    if issubclass(cls, ExceptionGroup) and len(args) == 2 and isinstance(args[1], list):
        args = args[0], [decode_exception(inner) for inner in args[1] if isinstance(inner, Mapping)]
    made: Any = cls
    for build in (made, lambda *args: made.__new__(made, *args)):
        try:
            exc = build(*args)
            _ = str(exc), repr(exc)
        except Exception:  # noqa: BLE001, S112 - a user's class may raise anything
            continue
        if isinstance(exc, BaseException):
            return exc
    return None


@lru_cache(maxsize=1000)
def _invented(module: str, name: str) -> type[TaskError]:
    short = name.rpartition(".")[2]
    if not short.isidentifier():
        return TaskError
    return type(short, (TaskError,), {"__module__": module})
