"""cron's own five fields (six with seconds) by the library cronsim, which follows Debian's cron."""

from copy import copy
from datetime import datetime
from typing import Any, Final, Unpack
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from taskq.schedules.base import PolicyOptions, WallSchedule

#: Any wall time will do to read a line.
_SOME_TIME: Final = datetime(2026, 1, 1)  # noqa: DTZ001 - a wall time


class cron(WallSchedule):  # noqa: N801 - called as a function is
    """A line of cron: `cron("0 6 * * 1-5", tz="Europe/Berlin")`.

    Minute, hour, day of month, month, day of week; with six fields, seconds come first. Day of month and day of week
    are either-or where neither begins with `*`, as cron has it; Celery's `crontab` wants both.

    Args:
        line: the fields; also `L`, `LW`, `5L`, `MON#1` and names, as cronsim reads them.
        tz: name of the time zone; default the setting `timezone`, else UTC. See `taskq.schedules.walltime` for what
            clock changes do.
        options: see `taskq.schedules.base.PolicyOptions`.

    Raises:
        ValueError: the line cannot be read, or never fires.
        TypeError: an option is unknown.
    """

    def __init__(
        self, line: str, *, tz: str | ZoneInfo | None = None, **options: Unpack[PolicyOptions]
    ) -> None:
        super().__init__(tz, options)
        self.line = " ".join(line.split())
        try:
            # Without a zone cronsim tells wall times and does nothing of its own at clock changes.
            self._fields = CronSim(self.line, _SOME_TIME)
        except CronSimError as error:
            raise ValueError(f"cron: {line!r} cannot be read: {error}") from error
        if self.after(_SOME_TIME) is None:
            raise ValueError(f"cron: {line!r} never fires")

    @property
    def every_hour(self) -> bool:
        """As `WallSchedule.every_hour`."""
        return len(self._fields.hours) == 24

    def after(self, wall: datetime) -> datetime | None:
        """As `WallSchedule.after`."""
        fields = copy(self._fields)
        fields.dt = wall.replace(microsecond=0)
        return next(fields, None)

    def dump(self) -> dict[str, Any]:
        """As `Schedule.dump`."""
        zone = {} if self.tz is None else {"tz": self.tz.key}
        return {"kind": "cron", "line": self.line, **zone, **self.policy.dump()}

    def __repr__(self) -> str:
        return f"<cron: {self.line}{f' ({self.tz.key})' if self.tz else ''}>"
