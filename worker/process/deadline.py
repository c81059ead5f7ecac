"""The end of a process that was told to stop and does not come to its end by itself."""

import logging
import os
import select
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

logger = logging.getLogger("taskq.worker")


class Deadline:
    """Ends this process so many seconds after `begin`, from a thread: also while the event loop is blocked.

    Args:
        seconds: how long; more than a thread can wait for is for ever.
        code: the exit code.
    """

    def __init__(self, seconds: float, code: int) -> None:
        self._seconds = seconds
        self._code = code
        #: Tells what is left undone then.
        self.left: Callable[[], str] = lambda: ""
        self._reader, self._writer = os.pipe()
        self._thread = threading.Thread(target=self._wait, name="taskq-deadline", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def begin(self) -> None:
        """From now on. Fit for a handler of signals: it takes no lock."""
        os.write(self._writer, b"b")

    def _wait(self) -> None:
        if not os.read(self._reader, 1):
            return
        timeout = min(self._seconds, threading.TIMEOUT_MAX)
        if not select.select([self._reader], [], [], timeout)[
            0
        ]:  # else it is closed: the process ends by itself
            logger.error("the grace period is over%s", self.left())
            logging.shutdown()
            os._exit(self._code)
