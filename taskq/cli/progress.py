"""A bar that follows a task's PROGRESS states."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from taskq.printable import printable
from taskq.states import READY


class Step(NamedTuple):
    """How far a task is, and what it says of it."""

    done: float
    total: float
    text: str


def step_of(meta: Any) -> Step | None:
    """Read the meta of a custom state: `{"current": 3, "total": 9}`, `{"progress": 50}` or `{"percent": 50}`.

    `description` or `message` may go with it. None if it tells nothing of the kind.
    """
    if not isinstance(meta, Mapping):
        return None
    text = escape(printable(str(meta.get("description") or meta.get("message") or "")))
    total = _number(meta.get("total"))
    done = _number(meta.get("current"))
    if done is None or not total:
        total = 100.0
        done = next((n for key in ("percent", "progress") if (n := _number(meta.get(key))) is not None), None)
    return None if done is None else Step(done, total, text)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class ProgressBar:
    """Shows states on standard error while a task is waited for; nothing where that is no terminal."""

    def __init__(self, title: str, *, quiet: bool, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, console=console, transient=True, disable=quiet or not console.is_terminal
        )
        self._title = title
        self._task = self._bar.add_task(title, total=None)

    def show(self, state: Mapping[str, Any]) -> bool:
        """Take in a state, as `on_message` gives it; tells whether it is to be seen in the bar."""
        step = step_of(state["result"])
        if step is None or state["status"] in READY:
            return False
        text = step.text or self._title
        self._bar.update(self._task, completed=step.done, total=step.total, description=text)
        return not self._bar.disable

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
