"""A process that ends with the one that started it, whatever either of them is doing at that moment.

The starter holds one end of a pipe, the other process has the other end. Only the kernel sees for sure that the starter is
gone: a thread that reads the pipe cannot run while a C call holds the interpreter.
"""

import fcntl
import os
import select
import signal
import threading


class Lifeline:
    """The starter's side: the one process that was given `descriptor`, and is tied to it, ends when this is closed.

    One for each process: the kernel remembers one addressee for a pipe's end, however many have it.
    """

    def __init__(self) -> None:
        self.descriptor, self._ours = os.pipe()

    def handed_over(self) -> None:
        """The process has been started."""
        os.close(self.descriptor)

    def close(self) -> None:
        """End it, if it has not."""
        os.close(self._ours)


def tie_to(descriptor: int) -> None:
    """Have this process and the others of its group killed as soon as the starter is gone.

    The process leads a group of its own.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([descriptor], [], [], 0)[0]:  # it was gone before that
            _end()
    else:  # macOS: the kernel does not send a signal of our choice
        threading.Thread(target=_wait, args=[descriptor], name="taskq-lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    _end()


def _end() -> None:
    os.killpg(0, signal.SIGKILL)
