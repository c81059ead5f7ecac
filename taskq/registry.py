"""What is known to the whole process: tasks shared between apps, and the app that is current."""

from typing import Any

from taskq.errors import ConfigError
from taskq.seams.app import App

#: Tasks made by `@shared_task`: every app has them.
shared: dict[str, Any] = {}

_current: list[App] = []


def set_current(app: App) -> None:
    """Make an app the one that shared tasks use."""
    _current[:] = [app]


def current() -> App:
    """The app made last, or chosen by `app.set_current()`.

    Raises:
        ConfigError: there is no app yet.
    """
    if not _current:
        raise ConfigError('there is no app yet: make one with app = TaskQ("proj") before calling tasks')
    return _current[0]
