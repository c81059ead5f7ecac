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


def instants(fits: Fits, zone: str, until: datetime, *, every_hour: bool) -> list[datetime]:
    """All instants after FIRST and before another one at which it fires."""
    minutes = (until - FIRST) // MINUTE
    fitting, ahead = wall_times(fits, minutes), offsets(zone, minutes)
    fired = bytearray(minutes)
    latest = MARGIN + ahead[0]  # the latest wall time that has come, as a position in `fitting`
    for at in range(1, minutes):
        wall = MARGIN + at + ahead[at]
        if every_hour:
            fired[at] = fitting[wall]
        elif wall > latest:  # what a gap has swallowed comes at its end, together
            fired[at] = any(fitting[latest + 1 : wall + 1]) if wall > latest + 1 else fitting[wall]
            latest = wall
    return [FIRST + at * MINUTE for at in compress(range(minutes), fired)]
