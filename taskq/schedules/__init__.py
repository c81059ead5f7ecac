"""When periodic tasks run: `from taskq.schedules import crontab, cron, every, schedule, solar`.

A schedule is a value. It tells the next instant after another one and knows no clock, no broker and no app.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskq.schedules.base import Schedule as Schedule
    from taskq.schedules.cronlines import cron as cron
    from taskq.schedules.crontabs import crontab as crontab
    from taskq.schedules.intervals import every as every
    from taskq.schedules.intervals import schedule as schedule
    from taskq.schedules.sun import solar as solar

_HOMES = {
    "Schedule": "taskq.schedules.base",
    "cron": "taskq.schedules.cronlines",
    "crontab": "taskq.schedules.crontabs",
    "every": "taskq.schedules.intervals",
    "schedule": "taskq.schedules.intervals",
    "solar": "taskq.schedules.sun",
}

__all__ = ["Schedule", "cron", "crontab", "every", "schedule", "solar"]


def __getattr__(name: str) -> Any:
    """Import a name at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
