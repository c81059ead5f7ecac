"""What is known to the whole process: tasks shared between apps, and the app that is current."""

from typing import TYPE_CHECKING, Any

from taskq.errors import ConfigError

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.task import Task

#: Tasks made by `@shared_task`: every app has them.
shared: "dict[str, Task[Any, Any, Any]]" = {}

_current: "list[TaskQ]" = []


def set_current(app: "TaskQ") -> None:
    """Make an app the one that shared tasks use."""
    _current[:] = [app]


def current_app() -> "TaskQ":
    """The app made last, or chosen by `app.set_current()`.

    Raises:
        ConfigError: there is no app yet.
    """
    if not _current:
        raise ConfigError('there is no app yet: make one with app = TaskQ("proj") before calling tasks')
    return _current[0]
