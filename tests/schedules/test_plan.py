"""What an entry is to send, by what has passed."""

from datetime import UTC, datetime, timedelta

import pytest

from taskq.schedules import Schedule, crontab, every
from taskq.schedules.plan import Plan, following, plan, shift

MINUTE = timedelta(minutes=1)


def at(hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute, second, tzinfo=UTC)


def planned(schedule: Schedule, last: datetime, now: datetime) -> Plan:
    return plan("x", schedule, last, now, UTC, MINUTE)


def test_nothing_is_due_before_the_next_instant() -> None:
    assert planned(every("5m"), at(12, 0), at(12, 4, 59)) == Plan([], at(12, 0), 0)


def test_what_has_just_come_is_sent_all_of_it() -> None:
    assert planned(every("20s"), at(12, 0), at(12, 0, 41)).send == [at(12, 0, 20), at(12, 0, 40)]


@pytest.mark.parametrize(
    ("schedule", "send", "left_out"),
    [
        (every("1h"), [at(12, 0)], 2),
        (every("1h", catch_up="none"), [], 3),
        (every("1h", catch_up="all"), [at(10, 0), at(11, 0), at(12, 0)], 0),
        (every("1h", catch_up="all", within="100m"), [at(11, 0), at(12, 0)], 1),
        (every("1h", until=at(11, 30)), [at(11, 0)], 1),
    ],
)
def test_what_passed_while_nobody_ran_goes_by_policy(
    schedule: Schedule, send: list[datetime], left_out: int
) -> None:
    found = planned(schedule, at(9, 30), at(12, 30))
    assert (found.send, found.left_out) == (send, left_out)


def test_with_a_fresh_instant_the_last_late_one_is_not_sent_beside_it() -> None:
    assert planned(every("1h"), at(9, 30), at(12, 0, 5)) == Plan([at(12, 0)], at(12, 0), 2)


def test_of_a_long_absence_the_last_instant_is_found() -> None:
    yearly = crontab(0, 12, day_of_month=1, month_of_year=2)
    before = datetime(2020, 1, 1, tzinfo=UTC)
    assert planned(yearly, before, at(12, 0)).send == [datetime(2026, 2, 1, 12, tzinfo=UTC)]
    assert planned(every("1s"), before, at(12, 0)).send[-1] == at(12, 0)


def test_a_clock_that_was_set_back_sends_nothing_again() -> None:
    assert planned(every("1m"), at(12, 30), at(12, 10)) == Plan([], at(12, 30), 0)


def test_jitter_is_the_same_for_all_and_less_than_it_may_be() -> None:
    shifts = [shift(name, at(12, 0), 10.0) for name in map(str, range(200))]
    assert shifts == [shift(name, at(12, 0), 10.0) for name in map(str, range(200))]
    assert timedelta() <= min(shifts) < timedelta(seconds=2)
    assert timedelta(seconds=8) < max(shifts) < timedelta(seconds=10)


def test_an_instant_with_jitter_is_sent_when_its_own_time_has_come() -> None:
    schedule = every("1h", jitter="30m")
    due = at(12, 0) + shift("x", at(12, 0), 1800.0)
    assert planned(schedule, at(11, 0), due - timedelta(seconds=1)).send == []
    assert planned(schedule, at(11, 0), due).send == [at(12, 0)]


def test_after_until_nothing_follows() -> None:
    assert following(every("1h", until=at(12, 0)), at(11, 30), UTC) == at(12, 0)
    assert following(every("1h", until=at(12, 0)), at(12, 0), UTC) is None
