"""From wall time to instants, at clock changes, too. One rule for all schedules that tell wall times:

an entry with fixed hours fires once for each of its wall times on each local day, at the first instant that bears
the wall time or, if a gap swallows it, at the end of the gap; an entry of every hour fires at every instant that
bears a wall time of it, so that it runs each real hour.

Celery 5.7 loses the second 02:00 of `0 * * * *` when clocks are set back; croniter fires `30 2 * * *` twice then.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo

DAY: Final = timedelta(days=1)
SECOND: Final = timedelta(seconds=1)


class Calendar(Protocol):
    """Wall times, as datetimes without a zone and of whole seconds."""

    @property
    def every_hour(self) -> bool:
        """Whether all 24 hours are in it, as by `*`."""
        ...

    def after(self, wall: datetime) -> datetime | None:
        """The first wall time of it later than this one; None: there is none."""
        ...


def find_zone(name: str) -> ZoneInfo:
    """The time zone of a name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"there is no time zone {name!r} here: use a name of the IANA database like Europe/Berlin "
            "(where the system has none of them, pip install tzdata)"
        ) from error


def next_instant(calendar: Calendar, instant: datetime, zone: tzinfo) -> datetime | None:
    """The first instant after this one at which a calendar's wall time comes in a zone, in UTC."""
    if calendar.every_hour:
        return _next_of_each_hour(calendar, instant.astimezone(UTC).replace(microsecond=0), zone)
    return _next_of_each_day(calendar, instant.astimezone(UTC), zone)


def _next_of_each_day(calendar: Calendar, instant: datetime, zone: tzinfo) -> datetime | None:
    wall = calendar.after(_wall(instant, zone))
    while wall is not None:
        found = instant_of(wall, zone)
        if found > instant:
            return found
        wall = calendar.after(wall)  # within a repeated hour the next wall times have had their first instant
    return None


def instant_of(wall: datetime, zone: tzinfo) -> datetime:
    """The first instant that bears a wall time; the end of the gap if a gap swallows it."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(first, zone) == wall:
        return first
    # Of a swallowed time, fold 0 lies behind the gap and fold 1 before it (PEP 495).
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change(before, first, _offset(before, zone), zone)


def _next_of_each_hour(calendar: Calendar, instant: datetime, zone: tzinfo) -> datetime | None:
    """Walks from one clock change to the next: between two of them, wall time is UTC plus an offset."""
    offset = _offset(instant, zone)
    while (wall := calendar.after(instant.replace(tzinfo=None) + offset)) is not None:
        candidate = (wall - offset).replace(tzinfo=UTC)
        edge = min(candidate, instant + DAY)
        if _offset(edge, zone) != offset:
            change = _change(instant, edge, offset, zone)
            instant, offset = change - SECOND, _offset(change, zone)
        elif edge == candidate:
            return candidate
        else:  # a clock set back later than this repeats no wall time that is not between here and the next one
            instant = max(edge, candidate - 2 * DAY)
            offset = _offset(instant, zone)
    return None


def _change(low: datetime, high: datetime, offset: timedelta, zone: tzinfo) -> datetime:
    """The first instant after `low`, up to `high`, that has another offset than this."""
    while high - low > SECOND:
        middle = low + timedelta(seconds=(high - low) // SECOND // 2)
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high


def _wall(instant: datetime, zone: tzinfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(instant: datetime, zone: tzinfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()
