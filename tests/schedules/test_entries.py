"""How entries are declared: Celery's dict to the letter, `add_periodic_task`, hooks, and beside the code."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import celery.schedules
import pytest

from taskq import TaskQ, chain, group, shared_task
from taskq.errors import ConfigError
from taskq.schedules import crontab, every
from taskq.schedules.entries import HEADER, Entry, entries_of_code, zone_of


@pytest.fixture
def memory_app() -> TaskQ:
    return TaskQ("proj", broker="memory://entries")


async def test_entries_of_celerys_dict(memory_app: TaskQ) -> None:
    memory_app.conf.beat_schedule = {
        "hourly": {"task": "proj.report", "schedule": crontab(minute=0), "args": (1,), "options": {"queue": "slow"}},
        "seconds": {"task": "proj.ping", "schedule": 30.0, "kwargs": {"a": 1}, "relative": True},
        "delta": {"task": "proj.ping", "schedule": timedelta(minutes=5)},
        "theirs": {"task": "proj.ping", "schedule": celery.schedules.crontab(hour=7, minute=30)},
    }  # fmt: skip
    assert await entries_of_code(memory_app) == {
        "hourly": Entry("hourly", crontab(0), "proj.report", (1,), {}, {"queue": "slow"}),
        "seconds": Entry("seconds", every(30), "proj.ping", (), {"a": 1}),
        "delta": Entry("delta", every("5m"), "proj.ping"),
        "theirs": Entry("theirs", crontab(30, 7), "proj.ping"),
    }


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"schedule": 1}, "'x' has no task"),
        ({"task": "t"}, "'x' has no schedule"),
        ({"task": "t", "schedule": "soon"}, "'x': .*soon"),
        ({"task": "t", "schedule": None}, "'x' has no schedule"),
        ({"task": "t", "schedule": object()}, "'x': .* is no schedule"),
        ({"task": "t", "schedule": 1, "arg": ()}, "'x' has an unknown key 'arg'.*args"),
    ],
)
async def test_a_wrong_entry_is_named(memory_app: TaskQ, declared: dict[str, Any], why: str) -> None:
    memory_app.conf.beat_schedule = {"x": declared}
    with pytest.raises(ConfigError, match=f"beat_schedule: {why}"):
        await entries_of_code(memory_app)


async def test_add_periodic_task_is_celerys(memory_app: TaskQ) -> None:
    @memory_app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    assert memory_app.add_periodic_task(30.0, add.s(1, 2), name="named", expires=10) == "named"
    assert memory_app.add_periodic_task(crontab(0), add.s(2), (1,)) == "proj.add(1, 2)"
    assert memory_app.add_periodic_task(60, add, (5, 6)) == "proj.add(5, 6)"
    entries = await entries_of_code(memory_app)
    assert entries["named"].options["expires"] == 10
    assert list(entries["proj.add(1, 2)"].args) == [1, 2]
    assert list(entries["proj.add(5, 6)"].args) == [5, 6]


async def test_receivers_of_on_after_configure_run_once(memory_app: TaskQ) -> None:
    @memory_app.task(name="proj.ping")
    async def ping() -> None: ...

    @memory_app.on_after_configure.connect
    def setup(sender: TaskQ, **_: Any) -> None:
        sender.add_periodic_task(10, ping.s(), name=f"ping{len(sender.periodic)}")

    @memory_app.on_after_finalize.connect
    async def later(sender: TaskQ, **_: Any) -> None:
        sender.add_periodic_task(20, ping.s(), name="finalized")

    assert list(await entries_of_code(memory_app)) == ["ping0", "finalized"]
    assert list(await entries_of_code(memory_app)) == ["ping0", "finalized"]


async def test_a_schedule_may_stand_beside_the_code(memory_app: TaskQ) -> None:
    @memory_app.task(name="proj.sync", schedule=every("5m", jitter="10s", overlap="skip"))
    async def sync() -> None: ...

    @shared_task(name="shared.sync", schedule=60)
    def shared() -> None: ...

    entries = await entries_of_code(memory_app)
    assert entries["proj.sync"] == Entry("proj.sync", every("5m", jitter="10s", overlap="skip"), "proj.sync")
    assert entries["shared.sync"].schedule == every("1m")


@pytest.mark.parametrize("schedule", ["soon", -1, object()])
def test_a_wrong_schedule_is_told_where_it_is_written(memory_app: TaskQ, schedule: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"is no (schedule|interval)"):
        memory_app.task(schedule=schedule)(print)
    with pytest.raises((TypeError, ValueError), match=r"is no (schedule|interval)"):
        memory_app.add_periodic_task(schedule, memory_app.signature("proj.ping"))


@pytest.mark.parametrize("make", [lambda s: chain(s, s), lambda s: group(s, s)])
def test_a_canvas_is_no_periodic_task(memory_app: TaskQ, make: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="let a task send"):
        memory_app.add_periodic_task(10, make(memory_app.signature("proj.ping")))


def test_unknown_options_of_a_periodic_task_are_refused(memory_app: TaskQ) -> None:
    with pytest.raises(TypeError, match="expire"):
        memory_app.add_periodic_task(10, memory_app.signature("proj.ping"), expire=10)  # type: ignore[call-arg]  # the misspelling is the point


def test_what_is_sent_names_its_entry_and_keeps_own_headers() -> None:
    entry = Entry("x", every(1), "proj.ping", options={"headers": {"a": 1}, "queue": "q"})
    options = entry.signature("id").options
    assert options == {"headers": {"a": 1, HEADER: "x"}, "queue": "q", "task_id": "id"}


def test_ids_differ_by_app_entry_and_instant(memory_app: TaskQ) -> None:
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    one, two = Entry("one", every(1), "t"), Entry("two", every(1), "t")
    ids = {
        one.task_id(memory_app, instant),
        two.task_id(memory_app, instant),
        one.task_id(memory_app, instant + timedelta(seconds=1)),
        one.task_id(TaskQ("other", broker="memory://entries"), instant),
    }
    assert len(ids) == 4
    assert one.task_id(memory_app, instant) in ids


async def test_the_zone_of_schedules_is_a_setting(memory_app: TaskQ) -> None:
    assert zone_of(memory_app).key == "UTC"
    memory_app.conf.timezone = "Europe/Berlin"
    assert zone_of(memory_app).key == "Europe/Berlin"
    memory_app.conf.timezone = "Mars/Olympus"
    with pytest.raises(ConfigError, match="timezone: there is no time zone 'Mars/Olympus'"):
        zone_of(memory_app)
