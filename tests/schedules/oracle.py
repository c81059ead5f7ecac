"""What fires when, found by looking at every minute of some years: slow, and too simple to be wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import compress
from zoneinfo import ZoneInfo

#: Does an entry fire at this wall time?
Fits = Callable[[datetime], bool]

#: Where all spans begin.
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
#: Wall times differ from UTC by less than a day and a half; so many minutes more are looked at on either side.
MARGIN = 2160


@cache
def wall_times(fits: Fits, minutes: int) -> bytes:
    """For each minute of wall time, whether it fits: the same in all zones."""
    return bytes(map(fits, all_wall_times(minutes)))


@cache
def all_wall_times(minutes: int) -> list[datetime]:
    start = FIRST.replace(tzinfo=None) - MARGIN * MINUTE
    return [start + at * MINUTE for at in range(minutes + 2 * MARGIN)]


@cache
def offsets(zone: str, minutes: int) -> list[int]:
    """Minutes that wall time is ahead, at each minute of UTC; each hour is looked at, and its minutes if it differs."""
    tz, found = ZoneInfo(zone), []

    def ahead(at: int) -> int:
        return ((FIRST + at * MINUTE).astimezone(tz).utcoffset() or timedelta()) // MINUTE

    for at in range(0, minutes, 60):
        begins, ends = ahead(at), ahead(at + 60)
        found += [begins] * 60 if begins == ends else [ahead(minute) for minute in range(at, at + 60)]
    return found


@cache
def walls(zone: str, minutes: int, *, every_hour: bool) -> tuple[list[int], dict[int, range]]:
    """For each minute of UTC the wall time it brings, as a position in `wall_times`; and those of gaps, at their ends.

    To an entry with fixed hours, a wall time that came before is none: it is told as the first, which fits nothing.
    """
    brought, gaps, latest = [0], {}, MARGIN + offsets(zone, minutes)[0]
    for at, ahead in enumerate(offsets(zone, minutes)[1:], 1):
        wall = MARGIN + at + ahead
        brought.append(wall if every_hour or wall > latest else 0)
        if not every_hour and wall > latest + 1:
            gaps[at] = range(latest + 1, wall + 1)
        latest = max(latest, wall)
    return brought, gaps


def instants(fits: Fits, zone: str, until: datetime, *, every_hour: bool) -> list[datetime]:
    """All instants after FIRST and before another one at which it fires."""
    minutes = (until - FIRST) // MINUTE
    fitting = b"\0" + wall_times(fits, minutes)[1:]
    brought, gaps = walls(zone, minutes, every_hour=every_hour)
    fired = bytearray(map(fitting.__getitem__, brought))
    for end, swallowed in gaps.items():  # they come at its end, together
        fired[end] = any(fitting[wall] for wall in swallowed)
    return [FIRST + at * MINUTE for at in compress(range(minutes), fired)]
