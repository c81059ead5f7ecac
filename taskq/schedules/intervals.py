"""Schedules of equal intervals."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Unpack

from taskq.config.coerce import Seconds, coerce
from taskq.schedules.base import Policy, PolicyOptions, Schedule

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class schedule(Schedule):  # noqa: N801 - Celery's name
    """Celery's schedule of equal intervals: `schedule(30.0)`.

    Its instants are multiples of the interval since `anchor`, so that any number of schedulers agree on them, also
    after a restart. (Celery counts from the last run of its one beat.)

    Args:
        run_every: the interval: seconds, a timedelta, or text like "5m".
        relative: Celery's option to round instants to the interval's unit; they always are multiples here.
        anchor: an instant from which to count; default 1 January 1970, so that "1d" is midnight in UTC.
        options: see `taskq.schedules.base.PolicyOptions`.

    Raises:
        ValueError: it is no interval.
        TypeError: an option is unknown.
    """

    def __init__(
        self,
        run_every: float | str | timedelta,
        relative: bool = False,  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        *,
        anchor: datetime = EPOCH,
        **options: Unpack[PolicyOptions],
    ) -> None:
        try:
            self.run_every = timedelta(seconds=coerce(Seconds, run_every))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{run_every!r} is no interval: {error}") from error
        if not self.run_every:
            raise ValueError(f"{run_every!r} is no interval: it must be longer than nothing")
        self.anchor = anchor.replace(tzinfo=UTC) if anchor.tzinfo is None else anchor.astimezone(UTC)
        self.policy = Policy.read(options)

    def next_after(self, instant: datetime, zone: tzinfo = UTC) -> datetime | None:  # noqa: ARG002 - it is the same in all zones
        """As `Schedule.next_after`."""
        passed = (instant - self.anchor) // self.run_every
        return self.anchor + (passed + 1) * self.run_every

    def dump(self) -> dict[str, Any]:
        """As `Schedule.dump`."""
        anchor = {} if self.anchor == EPOCH else {"anchor": self.anchor.isoformat()}
        return {"kind": "every", "seconds": self.run_every.total_seconds(), **anchor, **self.policy.dump()}

    def __repr__(self) -> str:
        return f"<every: {self.run_every}>"


def every(
    interval: float | str | timedelta, *, anchor: datetime = EPOCH, **options: Unpack[PolicyOptions]
) -> schedule:
    """A schedule of equal intervals: `every("5m")`; see `schedule`."""
    return schedule(interval, anchor=anchor, **options)
