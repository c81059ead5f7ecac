"""Wall times at clock changes, against a search by minutes of UTC: 40 zones, 12 entries, three years."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from taskq.schedules import Schedule, cron, crontab
from taskq.schedules.walltime import instant_of
from tests.schedules.oracle import FIRST, Fits, instants

#: Zones that change their clocks at midnight, by half an hour or two hours, in winter instead of summer, on the
#: southern half, for Ramadan, never, or with odd offsets.
ZONES = [
    *("UTC",),
    *(
        "Europe/Berlin",
        "Europe/London",
        "Europe/Dublin",
        "Europe/Lisbon",
        "Europe/Athens",
        "Europe/Chisinau",
        "Europe/Moscow",
    ),
    *(
        "America/New_York",
        "America/Los_Angeles",
        "America/St_Johns",
        "America/Santiago",
        "America/Havana",
        "America/Asuncion",
        "America/Sao_Paulo",
        "America/Scoresbysund",
        "America/Nuuk",
        "America/Caracas",
        "America/Punta_Arenas",
        "America/Miquelon",
    ),
    *("Africa/Cairo", "Africa/Casablanca", "Africa/El_Aaiun", "Africa/Johannesburg"),
    *(
        "Asia/Beirut",
        "Asia/Jerusalem",
        "Asia/Gaza",
        "Asia/Kathmandu",
        "Asia/Kolkata",
        "Asia/Tehran",
        "Asia/Tokyo",
    ),
    *("Australia/Lord_Howe", "Australia/Adelaide", "Australia/Sydney", "Australia/Eucla"),
    *("Antarctica/Troll",),
    *("Pacific/Auckland", "Pacific/Chatham", "Pacific/Apia", "Pacific/Easter"),
]

Case = tuple[Schedule, Fits, bool]

#: (the entry, does it fire at this wall time, has it every hour)
CASES: dict[str, Case] = {
    "hourly": (crontab(0), lambda w: w.minute == 0, True),
    "quarters on sundays": (
        cron("*/15 * * * SUN"),
        lambda w: w.minute % 15 == 0 and w.isoweekday() == 7,
        True,
    ),
    "hourly on sundays": (crontab(45, "*", "sun"), lambda w: w.minute == 45 and w.isoweekday() == 7, True),
    "midnight": (crontab(0, 0), lambda w: (w.hour, w.minute) == (0, 0), False),
    "half past two": (cron("30 2 * * *"), lambda w: (w.hour, w.minute) == (2, 30), False),
    "in the first hours": (
        crontab("*/20", "0-3"),
        lambda w: w.hour <= 3 and w.minute % 20 == 0,
        False,
    ),
    "every other hour": (cron("15 */2 * * *"), lambda w: w.hour % 2 == 0 and w.minute == 15, False),
    "minutes of an hour": (crontab("*", 1, "sat,sun"), lambda w: w.hour == 1 and w.isoweekday() > 5, False),
    "before midnight on weekdays": (
        cron("59 23 * * 1-5"),
        lambda w: (w.hour, w.minute) == (23, 59) and w.isoweekday() < 6,
        False,
    ),
    "both days": (
        crontab(0, 3, "sun", "25-31"),
        lambda w: (w.hour, w.minute) == (3, 0) and w.isoweekday() == 7 and w.day >= 25,
        False,
    ),
    "either day": (
        cron("0 1 1 * SUN"),
        lambda w: (w.hour, w.minute) == (1, 0) and (w.day == 1 or w.isoweekday() == 7),
        False,
    ),
    "leap day": (crontab(30, "*", "*", 29, 2), lambda w: (w.month, w.day, w.minute) == (2, 29, 30), True),
}


def fired(schedule: Schedule, zone: str, until: datetime) -> Iterator[datetime]:
    at: datetime | None = FIRST
    while (at := schedule.next_after(at, ZoneInfo(zone)) if at else None) is not None and at < until:
        yield at


def differences(zone: str, case: str, years: int) -> list[datetime]:
    schedule, fits, every_hour = CASES[case]
    until = FIRST.replace(year=FIRST.year + years)
    return sorted(set(fired(schedule, zone, until)) ^ set(instants(fits, zone, until, every_hour=every_hour)))


def test_there_are_forty_zones_and_twelve_entries() -> None:
    assert (len(set(ZONES)), len(CASES)) == (40, 12)


@pytest.mark.parametrize("case", ["hourly", "in the first hours"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"])
def test_fires_as_a_search_by_minutes_finds(zone: str, case: str) -> None:
    assert differences(zone, case, years=1) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zone", ZONES)
def test_fires_as_a_search_by_minutes_finds_everywhere(zone: str) -> None:
    assert {case: found for case in CASES if (found := differences(zone, case, years=3))} == {}


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]  # year, month, day, ...


def nexts(schedule: Schedule, start: datetime, count: int) -> list[datetime]:
    found = []
    for _ in range(count):
        start = schedule.next_after(start) or start
        found.append(start)
    return found


@pytest.mark.parametrize(
    ("schedule", "start", "expected"),
    [
        (  # Celery 5.7 loses the second of these
            crontab(0, tz="Europe/Berlin"),
            utc(2026, 10, 24, 23, 30),
            [utc(2026, 10, 25, 0), utc(2026, 10, 25, 1), utc(2026, 10, 25, 2)],
        ),
        (  # croniter fires twice on the 25th
            cron("30 2 * * *", tz="Europe/Berlin"),
            utc(2026, 10, 24, 12),
            [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)],
        ),
        (
            cron("30 2 * * *", tz="Europe/Berlin"),
            utc(2027, 3, 27, 12),
            [utc(2027, 3, 28, 1), utc(2027, 3, 29, 0, 30)],
        ),
        (  # a gap swallows three of its times, and ends at the fourth
            crontab("*/20", "2,3", tz="Europe/Berlin"),
            utc(2027, 3, 28, 0),
            [utc(2027, 3, 28, 1), utc(2027, 3, 28, 1, 20)],
        ),
        (  # Samoa went without 30 December 2011
            crontab(0, 9, tz="Pacific/Apia"),
            utc(2011, 12, 30, 0),
            [utc(2011, 12, 30, 10), utc(2011, 12, 30, 19)],
        ),
        (  # the hour before midnight comes twice, and only once in a year does the entry come
            crontab(15, "*", "*", 4, 4, tz="America/Santiago"),
            utc(2026, 4, 5, 2, 30),
            [utc(2026, 4, 5, 3, 15), utc(2027, 4, 4, 4, 15)],
        ),
        (
            cron("0 0 6 * * *", tz="Asia/Kathmandu"),
            utc(2026, 1, 1),
            [utc(2026, 1, 1, 0, 15)],
        ),
    ],
)
def test_clock_changes(schedule: Schedule, start: datetime, expected: list[datetime]) -> None:
    assert nexts(schedule, start, len(expected)) == expected


@pytest.mark.parametrize("schedule", [crontab(0), crontab(0, 6), cron("*/5 * * * *")])
def test_the_next_instant_is_later_also_within_a_second(schedule: Schedule) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start = utc(2026, 1, 1, 5) + timedelta(microseconds=1)
    found = schedule.next_after(start, berlin)
    assert found is not None
    assert found > start
    assert schedule.next_after(found - timedelta(microseconds=1), berlin) == found
    assert schedule.next_after(found, berlin) != found


def test_instant_of_a_wall_time_that_comes_twice_is_the_first() -> None:
    wall = datetime(2026, 10, 25, 2, 30)
    assert instant_of(wall, ZoneInfo("Europe/Berlin")) == utc(2026, 10, 25, 0, 30)
