"""A child process of a worker: runs one task at a time in its main thread, until its worker says so or is gone."""

import contextvars
import logging
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from operator import attrgetter
from queue import SimpleQueue
from types import FrameType
from typing import Any

from taskq.config.layers import Source
from taskq.errors import ConfigError, SoftTimeLimitExceeded
from taskq.logs import TaskFields
from taskq.seams.store import TaskResult
from taskq.task import Task
from taskq.wire.repr import saferepr
from taskq.wire.request import current
from taskq.worker.pools.child_protocol import (
    LENGTH,
    Ended,
    Interrupt,
    LogRecord,
    Ready,
    RunCall,
    StateUpdate,
    framed,
    pack_error,
    pack_value,
    survives,
)
from taskq.worker.process.lifeline import tie_to

logger = logging.getLogger("taskq.worker")

#: What each log record has.
_STANDARD = logging.makeLogRecord({}).__dict__.keys()
#: Signals to a whole group of processes: the worker decides when a child ends.
_NOT_FOR_US = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def serve(descriptor: int, lifeline: int) -> None:
    """Run calls that come over a socket until it is closed, or the worker is gone."""
    tie_to(lifeline)
    for number in _NOT_FOR_US:
        signal.signal(number, _ignore)  # not SIG_IGN, which programs started by a task would inherit
    Child(socket.socket(fileno=descriptor)).run()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""


class Child:
    """The child's end of the socket, and the run under way."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb")
        self._calls: SimpleQueue[RunCall] = SimpleQueue()
        self._sending = threading.RLock()
        self._running = 0  # number of the run whose function is being executed
        self._interrupted = 0  # number of the run that is to be interrupted
        self._shielded = False
        self._settings: Mapping[str, Any] = {}
        signal.signal(signal.SIGUSR1, self._on_interrupt)

    def run(self) -> None:
        """Take calls; never returns: the process ends with its worker."""
        setup = self._receive()
        self._settings = setup.settings
        for module in setup.modules:
            with suppress(Exception):  # it is told by the run that needs it
                import_module(module)
        self._log_to_worker(setup.level)
        threading.Thread(target=self._listen, name="taskq-child", daemon=True).start()
        self._send(Ready())
        while True:
            self._execute(self._calls.get())

    # --- frames ---------------------------------------------------------------------------------------------

    def _receive(self) -> Any:
        (length,) = LENGTH.unpack(self._stream.read(LENGTH.size))
        return pickle.loads(self._stream.read(length))  # noqa: S301 - from our own worker

    def _listen(self) -> None:
        """In a thread: a worker that is gone takes its children and what they have started with it."""
        with suppress(Exception):
            while True:
                frame = self._receive()
                if isinstance(frame, Interrupt):
                    self._interrupted = frame.number
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                else:
                    self._calls.put(frame)
        os.killpg(0, signal.SIGKILL)

    def _send(self, frame: object) -> None:
        data = framed(frame)
        with self._shield(), self._sending:
            self._sock.sendall(data)

    @contextmanager
    def _shield(self) -> Iterator[None]:
        """No interrupt in the middle of a frame: it comes when the frame is out."""
        if threading.current_thread() is not threading.main_thread() or self._shielded:
            yield
            return
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        self._interrupt_if_told()

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self._shielded:
            self._interrupt_if_told()

    def _interrupt_if_told(self) -> None:
        if self._running and self._interrupted == self._running:
            self._interrupted = 0
            raise SoftTimeLimitExceeded

    # --- runs -----------------------------------------------------------------------------------------------

    def _execute(self, call: RunCall) -> None:
        request = call.request
        request.record = self._record
        try:
            payload, failed = pack_value(contextvars.copy_context().run(self._call, call)), False
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            payload, failed = pack_error(error, _traceback_of(error)), True
        request.record = None
        self._send(Ended(payload, failed, request.children, _peak_memory()))

    def _call(self, call: RunCall) -> Any:
        current.set(call.request)
        task = self._find(call)
        try:
            self._running = call.number
            self._interrupt_if_told()
            return task.run(*call.request.args, **call.request.kwargs)
        finally:
            self._running = 0

    def _find(self, call: RunCall) -> Task[Any, Any, Any]:
        task = attrgetter(call.name)(import_module(call.module))
        if not isinstance(task, Task):
            raise ConfigError(
                f"{call.module}.{call.name} is not a task when it is imported in another process"
            )
        if self._settings:
            task.app.conf.set_from(self._settings, Source.COMMAND_LINE, "the worker's command line")
            self._settings = {}
        return task

    def _record(self, result: TaskResult) -> None:
        if survives(result):
            self._send(StateUpdate(result))
        else:
            logger.error("the state %s of %s cannot leave its process", result.state, result.task_id)

    # --- logs -----------------------------------------------------------------------------------------------

    def _log_to_worker(self, level: int) -> None:
        """Records go to the worker's log, unless the program sets up logging as it is imported."""
        root = logging.getLogger()
        if not root.handlers:
            root.addHandler(_ToWorker(self))
            root.setLevel(level)

    def log(self, record: logging.LogRecord) -> None:
        """Hand a record to the worker."""
        self._send(LogRecord(record))


class _ToWorker(logging.Handler):
    """Sends records on, made plain: arguments and tracebacks are text."""

    def __init__(self, child: Child) -> None:
        super().__init__()
        self._child = child
        self.addFilter(TaskFields())

    def emit(self, record: logging.LogRecord) -> None:
        plain = logging.makeLogRecord(record.__dict__)
        plain.msg, plain.args = record.getMessage(), None
        if record.exc_info:
            plain.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            plain.exc_info = None
        for name in plain.__dict__.keys() - _STANDARD:
            if not survives(plain.__dict__[name]):  # given as `extra`
                plain.__dict__[name] = saferepr(plain.__dict__[name])
        self._child.log(plain)


def _traceback_of(error: BaseException) -> str:
    """From the user's code on: our own frames at its top say nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))


def _peak_memory() -> int:
    """The most this process has had in memory, in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak  # bytes there
