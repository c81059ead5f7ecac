"""Exceptions that asyncio takes for its own, on their way from a task to its worker."""


class Carried(Exception):
    """Holds what a task raised that must not be raised on the loop; who looks how the run ended takes it out.

    SystemExit and KeyboardInterrupt would end the loop, StopIteration cannot pass a coroutine.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


def carried(error: BaseException) -> Exception:
    """The error, in a form that a future takes."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return Carried(error)
