"""Celery's `crontab`: five fields that must all fit. (In cron itself day of month and day of week are either-or.)"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, Final, NamedTuple, TypeAlias, Unpack
from zoneinfo import ZoneInfo

from taskq.schedules.base import PolicyOptions, WallSchedule

#: What a field takes: a number, a pattern, or numbers.
Cronspec: TypeAlias = int | str | Iterable[int]

_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PART: Final = re.compile(r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")
_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)
#: Days of each month, the longest February.
_LENGTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
#: The 29th of February is a given weekday at least every 40 years (with 2100 in between, which is no leap year).
_YEARS: Final = 41


class CronField(NamedTuple):
    """One of the five: its name, least and greatest number, and names of numbers."""

    name: str
    least: int
    greatest: int
    names: Mapping[str, int] = {}

    def read(self, spec: Cronspec) -> frozenset[int]:
        """The numbers a field stands for. Raises ValueError or TypeError."""
        numbers = self._pattern(spec) if isinstance(spec, str) else self._plain(spec)
        if not numbers:
            raise ValueError(f"crontab: {self.name} is empty")
        return frozenset(numbers)

    def _plain(self, spec: int | Iterable[int]) -> set[int]:
        numbers = {spec} if isinstance(spec, int) else set(spec)
        for number in numbers:
            if not isinstance(number, int):
                raise TypeError(
                    f"crontab: {self.name} takes numbers, a pattern or one number, not {number!r}"
                )
            self._check(number, number)
        return numbers

    def _pattern(self, spec: str) -> set[int]:
        return {number for part in spec.split(",") for number in self._part(part.strip(), spec)}

    def _part(self, part: str, spec: str) -> Sequence[int]:
        """`*`, `5`, `mon-fri`, `22-3` (which goes on from the least number), each with `/step`."""
        found = _PART.fullmatch(part)
        if found is None or (found["step"] and not (found["star"] or found["last"])):
            raise ValueError(
                f"crontab: {part!r} in {self.name} {spec!r} is no number, range or step like */5"
            )
        first = self.least if found["star"] else self._number(found["first"], spec)
        last = self.greatest if found["star"] else self._number(found["last"] or found["first"], spec)
        numbers = range(first, last + 1)
        around = [*range(first, self.greatest + 1), *range(self.least, last + 1)] if last < first else numbers
        return around[:: self._step(found["step"], spec)]

    def _step(self, text: str | None, spec: str) -> int:
        step = 1 if text is None else int(text)
        if step < 1:
            raise ValueError(f"crontab: the step of {self.name} {spec!r} must be at least 1")
        return step

    def _number(self, text: str, spec: str) -> int:
        """A number or a name, of which the first three letters count."""
        if text.isdecimal():
            number = int(text)
        elif (short := text[:3].lower()) in self.names:
            number = self.names[short]
        else:
            names = f" or a name like {next(iter(self.names))}" if self.names else ""
            raise ValueError(f"crontab: {text!r} in {self.name} {spec!r} is no number{names}")
        return self._check(number, spec)

    def _check(self, number: int, spec: Any) -> int:
        if not self.least <= number <= self.greatest:
            bounds = f"{self.least} to {self.greatest}"
            raise ValueError(f"crontab: {number} in {self.name} {spec!r} is not in {bounds}")
        return number


_FIELDS: Final = (
    CronField("minute", 0, 59),
    CronField("hour", 0, 23),
    CronField("day_of_week", 0, 6, {name: at for at, name in enumerate(_WEEKDAYS)}),
    CronField("day_of_month", 1, 31),
    CronField("month_of_year", 1, 12, {name: at for at, name in enumerate(_MONTHS, 1)}),
)


class crontab(WallSchedule):  # noqa: N801 - Celery's name
    """Celery's crontab: fires at the minutes at which all five fields fit.

    Each field takes a number, numbers, or a pattern: `*`, `*/15`, `1,13`, `8-17`, `8-17/2`, `22-3`, `mon-fri`.

    Args:
        minute: 0 to 59.
        hour: 0 to 23.
        day_of_week: 0 (Sunday) to 6, or names.
        day_of_month: 1 to 31.
        month_of_year: 1 to 12, or names.
        tz: name of the time zone; default the setting `timezone`, else UTC. See `taskq.schedules.walltime` for what
            clock changes do.
        options: see `taskq.schedules.base.PolicyOptions`.

    Raises:
        ValueError: a field has a wrong value, or there is no such day (30 February).
        TypeError: a field is neither number, text nor numbers, or an option is unknown.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        *,
        tz: str | ZoneInfo | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        super().__init__(tz, options)
        given = [_kept(spec) for spec in (minute, hour, day_of_week, day_of_month, month_of_year)]
        self._written = [spec if isinstance(spec, str) else _text(spec) for spec in given]
        fields = [field.read(spec) for field, spec in zip(_FIELDS, given, strict=True)]
        self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year = fields
        self._minutes, self._hours = sorted(self.minute), sorted(self.hour)
        if not any(min(self.day_of_month) <= _LENGTHS[month - 1] for month in self.month_of_year):
            shown = f"day_of_month {self._written[3]!r} never comes in month_of_year {self._written[4]!r}"
            raise ValueError(f"crontab: {shown}")

    @classmethod
    def from_string(
        cls, crontab: str, *, tz: str | ZoneInfo | None = None, **options: Unpack[PolicyOptions]
    ) -> "crontab":
        """A crontab from text in cron's order: minute, hour, day of month, month, day of week. Raises ValueError."""
        fields = crontab.split()
        if len(fields) != len(_FIELDS):
            raise ValueError(f"crontab: {crontab!r} has {len(fields)} fields, not 5")
        minute, hour, day_of_month, month, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month, tz=tz, **options)

    @property
    def every_hour(self) -> bool:
        """As `WallSchedule.every_hour`."""
        return len(self.hour) == 24

    def after(self, wall: datetime) -> datetime | None:
        """As `WallSchedule.after`."""
        start = wall.replace(second=0, microsecond=0) + _MINUTE
        if self._has(start.date()) and (found := self._time(start.hour, start.minute)) is not None:
            return start.replace(hour=found[0], minute=found[1])
        day = self._day(start.date() + _DAY)
        return None if day is None else datetime.combine(day, time(self._hours[0], self._minutes[0]))

    def _has(self, day: date) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def _time(self, hour: int, minute: int) -> tuple[int, int] | None:
        """The first time of a day not before this one."""
        if hour in self.hour and minute <= self._minutes[-1]:
            return hour, self._minutes[bisect_left(self._minutes, minute)]
        at = bisect_right(self._hours, hour)
        return None if at == len(self._hours) else (self._hours[at], self._minutes[0])

    def _day(self, first: date) -> date | None:
        """The first day of it not before this one."""
        day, last = first, first.year + _YEARS
        while not self._has(day):
            day = day + _DAY if day.month in self.month_of_year else _next_month(day)
            if day.year > last:
                return None
        return day

    def dump(self) -> dict[str, Any]:
        """As `Schedule.dump`."""
        written = dict(zip((field.name for field in _FIELDS), self._written, strict=True))
        fields = {name: text for name, text in written.items() if text != "*"}
        zone = {} if self.tz is None else {"tz": self.tz.key}
        return {"kind": "crontab", **fields, **zone, **self.policy.dump()}

    def __repr__(self) -> str:
        minute, hour, day_of_week, day_of_month, month = self._written
        return f"<crontab: {minute} {hour} {day_of_month} {month} {day_of_week} (m/h/dM/MY/d)>"


def _kept(spec: Cronspec) -> Cronspec:
    """A field that can be read twice. Raises TypeError."""
    if isinstance(spec, int | str):
        return spec
    if not isinstance(spec, Iterable):
        raise TypeError(f"crontab: a field is a number, a pattern or numbers, not {spec!r}")
    return list(spec)


def _text(spec: Any) -> str:
    return str(spec) if isinstance(spec, int) else ",".join(map(str, sorted(spec)))


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)
