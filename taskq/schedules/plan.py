"""What an entry is to send now, decided by arguments alone."""

from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from hashlib import blake2b
from itertools import chain
from typing import Final, NamedTuple

from taskq.schedules.base import Schedule

_DAY: Final = timedelta(days=1)


class Plan(NamedTuple):
    """The instants to send, the last one looked at, and how many of those that were late are left out."""

    send: list[datetime]
    last: datetime
    left_out: int


def following(schedule: Schedule, instant: datetime, zone: tzinfo) -> datetime | None:
    """The next instant of a schedule within its policy; None: it has ended."""
    found = schedule.next_after(instant, zone)
    until = schedule.policy.until
    return None if found is None or (until is not None and found > until) else found


def shift(name: str, instant: datetime, jitter: float) -> timedelta:
    """How much later than an instant an entry is sent: less than its jitter, and the same for all schedulers."""
    if not jitter:
        return timedelta()
    digest = blake2b(f"{name}:{instant.isoformat()}".encode(), digest_size=8).digest()
    return timedelta(seconds=jitter * int.from_bytes(digest) / 2**64)


def plan(
    name: str, schedule: Schedule, last: datetime, now: datetime, zone: tzinfo, patience: timedelta
) -> Plan:
    """What to send of the instants after `last` whose time has come.

    Those not later than `patience` are all sent. Older ones passed while no scheduler ran: their entry's policy decides.
    """
    jitter = schedule.policy.jitter
    came = [
        instant
        for instant in _since(schedule, last, now, zone)
        if instant + shift(name, instant, jitter) <= now
    ]
    if not came:
        return Plan([], last, 0)
    late = [instant for instant in came if now - instant - shift(name, instant, jitter) > patience]
    fresh = came[len(late) :]
    caught_up = _caught_up(schedule, late, fresh, now)
    return Plan([*caught_up, *fresh], came[-1], len(late) - len(caught_up))


def _caught_up(
    schedule: Schedule, late: list[datetime], fresh: list[datetime], now: datetime
) -> list[datetime]:
    if schedule.policy.catch_up == "all":
        return [instant for instant in late if now - instant <= timedelta(seconds=schedule.policy.within)]
    return late[-1:] if schedule.policy.catch_up == "last" and not fresh else []


def _since(schedule: Schedule, last: datetime, now: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The instants after `last`, up to now, in order. Of a long absence only those of the last day, if there are any."""
    recent = _walk(schedule, max(last, now - _DAY), now, zone)
    first = next(recent, None)
    if first is not None:
        return chain([first], recent)
    return _walk(schedule, last, now, zone)


def _walk(schedule: Schedule, start: datetime, now: datetime, zone: tzinfo) -> Iterator[datetime]:
    instant: datetime | None = start
    while instant is not None and (instant := following(schedule, instant, zone)) is not None:
        if instant > now:
            return
        yield instant
