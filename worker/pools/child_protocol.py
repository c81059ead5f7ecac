"""What a worker and its child processes say to each other: pickled frames over a pair of sockets of their own.

Both ends run the same user's code, and nobody else can reach the sockets: pickle brings in nothing from outside.
"""

import logging
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskq.canvas.signature import as_signature
from taskq.errors import EncodeError, Replaced
from taskq.seams.store import TaskResult
from taskq.wire.exceptions import decode_exception, encode_exception
from taskq.wire.repr import saferepr
from taskq.wire.request import Request

_PLAIN = {str, int, float, bool, type(None)}

#: The length of a frame, before it.
LENGTH = struct.Struct("!Q")


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(f'\n"""\n{text}"""')
        self.text = text


@dataclass(frozen=True, slots=True)
class Setup:
    """The first frame to a child: modules to import ahead, the log level, and settings that win over its own."""

    modules: list[str]
    level: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunCall:
    """Run the task that is `name` in `module`."""

    number: int
    module: str
    name: str
    request: Request


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise SoftTimeLimitExceeded in the run of that number, if it still runs."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From a child: it takes calls."""


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """From a child: a state to store."""

    result: TaskResult


@dataclass(frozen=True, slots=True)
class LogRecord:
    """From a child: a record for the worker's log."""

    record: logging.LogRecord


@dataclass(frozen=True, slots=True)
class Ended:
    """From a child: the end of a run. `payload` is the pickled value or failure, `memory` its peak so far in kB."""

    payload: bytes
    failed: bool
    children: list[Any]
    memory: int


def framed(frame: object) -> bytes:
    """A frame as it goes over the wire."""
    data = pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


def survives(value: object) -> bool:
    """Whether it comes out of its pickle again: a class with an `__init__` of its own may not."""
    if type(value) in _PLAIN:
        return True
    try:
        pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))  # noqa: S301 - what was just written
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return False
    return True


def pack_value(value: Any) -> bytes:
    """A return value.

    Raises:
        EncodeError: it cannot go to another process.
    """
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise EncodeError(f"the result {saferepr(value, 100)} cannot leave its process: {error}") from error


def pack_error(error: BaseException, text: str) -> bytes:
    """An exception with its traceback; one that does not survive pickling goes as Celery stores exceptions."""
    if isinstance(error, Replaced):
        error.signature = dict(error.signature.to_dict())  # without its app, which stays here
    error.__cause__ = error.__context__ = None
    data = pickle.dumps(error, pickle.HIGHEST_PROTOCOL) if survives(error) else b""
    return pickle.dumps((data, encode_exception(error), text))


def unpack_error(payload: bytes) -> BaseException:
    """The exception, with the traceback it had in its process as its cause."""
    data, written, text = pickle.loads(payload)  # noqa: S301 - from our own child
    try:
        error = pickle.loads(data)  # noqa: S301 - from our own child
    except Exception:  # noqa: BLE001 - its class may not be importable here
        error = decode_exception(written)
    if isinstance(error, Replaced):
        error.signature = as_signature(error.signature)
    error.__cause__ = RemoteTraceback(text)
    return error if isinstance(error, BaseException) else RuntimeError(text)
