"""What else stands for a schedule: numbers, timedeltas, Celery's objects, and what a ledger keeps."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from taskq.schedules.base import Schedule
from taskq.schedules.cronlines import cron
from taskq.schedules.crontabs import crontab
from taskq.schedules.intervals import schedule
from taskq.schedules.sun import solar


def as_schedule(value: Any) -> Schedule:
    """A schedule from what Celery takes in its place: seconds, a timedelta, or an object of `celery.schedules`.

    Objects of Celery are known by their attributes, so that those of packages built on it serve, too.

    Raises:
        ValueError, TypeError: it stands for none.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, int | float | str | timedelta) and not isinstance(value, bool):
        return schedule(value)
    for attribute, convert in _CELERY.items():
        if hasattr(value, attribute):
            return convert(value)
    raise TypeError(f"{value!r} is no schedule: write crontab(...), cron(...), every(...) or seconds")


def _of_crontab(value: Any) -> Schedule:
    zone = vars(value).get("tz")
    if zone is None and value.nowfun is not None:
        raise ValueError(f"{value!r} has a nowfun, which cannot be kept: write taskq's crontab(..., tz=...)")
    if zone is not None and not isinstance(zone, ZoneInfo):
        zone = getattr(zone, "zone", None) or str(zone)
    names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
    return crontab(**{name: getattr(value, f"_orig_{name}") for name in names}, tz=zone)


#: What Celery's schedules are known by.
_CELERY: Final[Mapping[str, Callable[[Any], Schedule]]] = {
    "_orig_minute": _of_crontab,
    "run_every": lambda value: schedule(value.run_every),
    "lat": lambda value: solar(value.event, value.lat, value.lon),
}


def load(data: Mapping[str, Any]) -> Schedule:
    """The schedule that `Schedule.dump` made this of.

    Raises:
        ValueError: it is of an unknown kind, or damaged.
    """
    options = dict(data)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is no kind of schedule: a newer version may have written it")
    try:
        return _KINDS[kind](options)
    except (TypeError, KeyError) as error:
        raise ValueError(f"a schedule of kind {kind} cannot be read: {error}") from error


def _load_interval(options: dict[str, Any]) -> Schedule:
    if "anchor" in options:
        options["anchor"] = datetime.fromisoformat(options["anchor"])
    return schedule(options.pop("seconds"), **options)


_KINDS: Final[Mapping[str, Callable[[dict[str, Any]], Schedule]]] = {
    "crontab": lambda options: crontab(**options),
    "cron": lambda options: cron(**options),
    "every": _load_interval,
    "solar": lambda options: solar(**options),
}
