"""The other kinds of schedules, what stands for one, and how they are kept."""

import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import celery.schedules
import pytest
from celery import Celery

from taskq import schedules
from taskq.errors import ConfigError
from taskq.schedules import Schedule, cron, crontab, every, schedule, solar, sun
from taskq.schedules.convert import as_schedule, load

START = datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)


def nexts(one: Schedule, count: int, start: datetime = START) -> list[datetime]:
    found = []
    for _ in range(count):
        start = one.next_after(start) or start
        found.append(start)
    return found


# == intervals


@pytest.mark.parametrize("interval", ["5m", 300, 300.0, timedelta(minutes=5)])
def test_intervals_are_multiples_since_the_epoch(interval: Any) -> None:
    expected = [datetime(2026, 3, 1, 12, minute, tzinfo=UTC) for minute in (5, 10, 15)]
    assert nexts(every(interval), 3) == expected
    assert every(interval) == schedule(interval) == as_schedule(interval)


def test_an_anchor_moves_them() -> None:
    daily = every("1d", anchor=datetime(2026, 1, 1, 3, 30))
    assert nexts(daily, 2) == [datetime(2026, 3, 2 + day, 3, 30, tzinfo=UTC) for day in (0, 1)]
    assert nexts(daily, 1, datetime(2020, 1, 1, tzinfo=UTC)) == [datetime(2020, 1, 1, 3, 30, tzinfo=UTC)]


def test_an_instant_is_not_its_own_next() -> None:
    [first] = nexts(every(0.3), 1)
    assert nexts(every(0.3), 1, first) == [first + timedelta(seconds=0.3)]


@pytest.mark.parametrize("interval", [0, -5, "soon", "", None, True, float("nan")])
def test_what_is_no_interval_is_refused(interval: Any) -> None:
    with pytest.raises(ValueError, match="is no interval"):
        every(interval)


# == cron


def test_cron_has_either_day_and_crontab_both() -> None:
    fridays = nexts(cron("0 0 13 * FRI"), 4, datetime(2026, 11, 1, tzinfo=UTC))
    assert [day.day for day in fridays] == [6, 13, 20, 27]


@pytest.mark.parametrize(("line", "why"), [("* * *", "fields"), ("60 * * * *", "minute"), ("0 0 30 2 *", "")])
def test_what_cron_cannot_read_is_refused(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"cron: .*{why}"):
        cron(line)


def test_cron_that_never_fires_is_refused() -> None:
    with pytest.raises(ValueError, match="never fires"):
        cron("0 0 */9 * SUN#5")  # the 1st, 10th, 19th or 28th, and the fifth Sunday


# == the sun


@pytest.mark.parametrize("event", sorted(sun._EVENTS))
def test_the_sun_is_celerys(event: str) -> None:
    theirs = celery.schedules.solar(event, 52.5, 13.4, app=Celery(set_as_current=False))
    start = START
    for _ in range(5):
        theirs.nowfun = lambda start=start: start
        found = solar(event, 52.5, 13.4).next_after(start)
        assert found is not None
        assert abs(found - (start + theirs.remaining_estimate(start))) < timedelta(seconds=1)
        start = found + timedelta(hours=1)


def test_each_sunset_comes_once() -> None:
    days = nexts(solar("sunset", 52.5, 13.4), 365)
    assert min(later - one for one, later in pairwise(days)) > timedelta(hours=23)


def test_polar_night_is_waited_through() -> None:
    [sunrise] = nexts(solar("sunrise", 78.2, 15.6), 1, datetime(2026, 11, 1, tzinfo=UTC))
    assert sunrise.month == 2


@pytest.mark.parametrize(
    ("place", "why"), [(("teatime", 0, 0), "teatime"), (("sunset", 91, 0), "91"), (("sunset", 0, 181), "181")]
)
def test_there_is_no_such_event_or_place(place: tuple[str, float, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        solar(*place)


def test_solar_without_ephem_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ConfigError, match=r"pip install 'taskq-asyncio\[solar\]'"):
        solar("sunset", 0, 0)


# == policies


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": "no"},
        {"catch_up": "some"},
        {"jitter": "-1"},
        {"within": "25h"},
        {"max_runs": 0},
        {"until": "x"},
    ],
)
def test_wrong_policies_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        every("1m", **options)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(TypeError, match=r"no option overlaps: it takes catch_up, jitter, max_runs, overlap"):
        every("1m", overlaps="skip")  # type: ignore[call-arg]  # the misspelling is the point


# == as values


KINDS: list[Schedule] = [
    crontab(),
    crontab([30, 0], "*/2", "mon-fri", tz="Europe/Berlin"),
    crontab(0, jitter="10s", until=datetime(2030, 1, 1), max_runs=3),
    cron("0 6 * * 1-5", tz=ZoneInfo("Asia/Tokyo"), overlap="skip"),
    every("5m", catch_up="all", within="2h"),
    every(0.5, anchor=datetime(2026, 1, 1)),
    solar("dawn_civil", 52.5, -13.4),
]


@pytest.mark.parametrize("one", KINDS, ids=repr)
def test_schedules_are_values_that_can_be_kept(one: Schedule) -> None:
    kept = load(one.dump())
    assert kept == one
    assert hash(kept) == hash(one)
    assert nexts(kept, 3) == nexts(one, 3)
    assert kept.policy == one.policy
    assert pickle.loads(pickle.dumps(one)) == one
    assert one not in [other for other in KINDS if other is not one]


@pytest.mark.parametrize("data", [{}, {"kind": "lunar"}, {"kind": "cron"}, {"kind": "every", "hours": 1}])
def test_what_cannot_be_read_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="kind"):
        load(data)


# == objects of Celery


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (celery.schedules.crontab("*/5", [1, 2], "mon"), crontab("*/5", [1, 2], "mon")),
        (celery.schedules.schedule(90), every(90)),
        (celery.schedules.schedule(timedelta(hours=1), relative=True), every("1h")),
        (celery.schedules.solar("sunset", 1, 2), solar("sunset", 1, 2)),
    ],
    ids=repr,
)
def test_schedules_of_celery_serve(theirs: Any, ours: Schedule) -> None:
    assert as_schedule(theirs) == ours


def test_a_zone_that_a_crontab_of_celery_bears_is_kept() -> None:
    theirs = celery.schedules.crontab(0)
    theirs.tz = ZoneInfo("Europe/Berlin")
    assert as_schedule(theirs) == crontab(0, tz="Europe/Berlin")


def test_a_nowfun_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"nowfun.*tz="):
        as_schedule(celery.schedules.crontab(0, nowfun=lambda: START))


@pytest.mark.parametrize("value", [None, True, object(), {"minute": 1}])
def test_what_is_no_schedule_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="is no schedule: write"):
        as_schedule(value)


# == the package


def test_the_package_is_loaded_only_when_used() -> None:
    code = "import sys, taskq; taskq.TaskQ; print(*[m for m in sys.modules if 'cronsim' in m or 'taskq.sched' in m])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == []


def test_the_package_has_what_it_says() -> None:
    assert all(hasattr(schedules, name) for name in dir(schedules))
    with pytest.raises(AttributeError, match="moon"):
        _ = schedules.moon
