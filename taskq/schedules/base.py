"""What all kinds of schedules have in common: what they are asked, and policies."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal, TypeAlias, TypedDict
from zoneinfo import ZoneInfo

from taskq.config.coerce import Count, Seconds, coerce
from taskq.schedules.walltime import find_zone, next_instant

Overlap: TypeAlias = Literal["allow", "skip", "queue_one", "cancel_running"]
CatchUp: TypeAlias = Literal["last", "none", "all"]

#: A broker remembers for a day what it has taken (`taskq.seams.broker.ONCE`): older instants could be sent twice.
LONGEST_CATCH_UP: Final = 86400.0


class PolicyOptions(TypedDict, total=False):
    """Keyword options that every kind of schedule takes.

    Attributes:
        overlap: what happens when an instant comes while the run before has not ended: `allow` (default; both run),
            `skip` (the instant is left out), `queue_one` (one run waits), `cancel_running` (the old run is cancelled).
        catch_up: what happens to instants that passed while no scheduler ran: `last` (default; the latest of them is
            sent at once), `none`, or `all`.
        within: how far back `all` reaches: seconds, a timedelta or text like "2h"; at most (and by default) a day.
        jitter: each instant is sent up to so much later, by an amount of its own, the same for all schedulers; seconds,
            a timedelta or text like "10s"; default none.
        until: no instant later than this one; a datetime without a zone is UTC.
        max_runs: the entry ends after it was sent so many times.
    """

    overlap: Overlap
    catch_up: CatchUp
    within: float | str | timedelta
    jitter: float | str | timedelta
    until: datetime
    max_runs: int


@dataclass(frozen=True, slots=True)
class Policy:
    """The same, checked: durations in seconds, `until` in UTC."""

    overlap: Overlap = "allow"
    catch_up: CatchUp = "last"
    within: float = LONGEST_CATCH_UP
    jitter: float = 0.0
    until: datetime | None = None
    max_runs: int | None = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> "Policy":
        """A policy from keyword options.

        Raises:
            TypeError: an option is unknown.
            ValueError: one has a wrong value.
        """
        if unknown := options.keys() - _READERS.keys():
            known = ", ".join(sorted(_READERS))
            raise TypeError(f"a schedule has no option {', '.join(sorted(unknown))}: it takes {known}")
        read = {}
        for name, value in options.items():
            try:
                read[name] = _READERS[name](value)
            except ValueError as error:
                raise ValueError(f"{name} is {value!r}: {error}") from None
        policy = cls(**read)
        if policy.within > LONGEST_CATCH_UP:
            raise ValueError(
                f"within is {options['within']!r}: at most a day, which is what brokers remember"
            )
        return policy

    def dump(self) -> dict[str, Any]:
        """What is not as by default, as plain values that `read` takes."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: value for name, value in found.items() if value != getattr(_DEFAULT, name)}
        if self.until is not None:
            changed["until"] = self.until.isoformat()
        return changed


def _until(value: Any) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("expected a datetime")  # noqa: TRY004 - one exception type says "not this value"
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "overlap": lambda value: coerce(Overlap, value),
    "catch_up": lambda value: coerce(CatchUp, value),
    "within": lambda value: coerce(Seconds, value),
    "jitter": lambda value: coerce(Seconds, value),
    "until": _until,
    "max_runs": lambda value: coerce(Count, value),
}
_DEFAULT: Final = Policy()


class Schedule(ABC):
    """When a periodic task runs. Schedules are values: equal if they were written equally, and never changed.

    Attributes:
        policy: overlaps, missed instants, jitter and end; see `taskq.schedules.base.PolicyOptions`.
    """

    policy: Policy

    @abstractmethod
    def next_after(self, instant: datetime, zone: tzinfo = UTC) -> datetime | None:
        """The first instant of this schedule later than the given one, in UTC; None: there is none.

        Args:
            instant: an aware datetime.
            zone: the time zone of a schedule that names none itself: the setting `timezone`.
        """

    @abstractmethod
    def dump(self) -> dict[str, Any]:
        """The schedule as plain values, which `taskq.schedules.convert.load` reads."""

    def __eq__(self, other: object) -> bool:
        return self.dump() == other.dump() if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(json.dumps(self.dump(), sort_keys=True))


class WallSchedule(Schedule):
    """A schedule of wall times in a time zone: see `taskq.schedules.walltime` for what clock changes do."""

    def __init__(self, tz: str | ZoneInfo | None, options: PolicyOptions) -> None:
        self.tz = find_zone(tz) if isinstance(tz, str) else tz
        self.policy = Policy.read(options)

    @property
    @abstractmethod
    def every_hour(self) -> bool:
        """Whether it fires in all 24 hours of a day."""

    @abstractmethod
    def after(self, wall: datetime) -> datetime | None:
        """The first wall time of it later than this one, both without a zone; None: there is none."""

    def next_after(self, instant: datetime, zone: tzinfo = UTC) -> datetime | None:
        """As `Schedule.next_after`."""
        return next_instant(self, instant, self.tz or zone)
