"""Schedulers: each instant is sent once, however many run; edits at run time; on each broker."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskq import TaskQ, chain
from taskq.errors import ConfigError, EncodeError
from taskq.schedules import crontab, every
from taskq.schedules.entries import HEADER
from taskq.schedules.records import Progress, ScheduleRecords
from taskq.schedules.scheduler import Scheduler
from taskq.seams.ledger import Mark
from taskq.seams.store import TaskResult
from taskq.sync import run_sync
from taskq.testing import AutojumpLoop
from taskq.wire.message import Message
from tests.harness import Place, running
from tests.polling import LONG_ENOUGH, eventually

SOON = every(0.3)
FAR = crontab(0, 0, day_of_month=29, month_of_year=2)


@asynccontextmanager
async def scheduling(app: TaskQ, *others: TaskQ) -> AsyncIterator[None]:
    """Schedulers that have their entries."""
    schedulers = [Scheduler(one) for one in (app, *others)]
    runs = [asyncio.create_task(one.run()) for one in schedulers]
    waits = [asyncio.create_task(one.ready.wait()) for one in schedulers]
    await asyncio.wait([*runs, *waits], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not any(run.done() for run in runs):
            await asyncio.gather(*waits)
            yield
    finally:
        for wait in waits:
            wait.cancel()
        for scheduler in schedulers:
            scheduler.stop()
        await asyncio.gather(*runs)


async def ledger_of(app: TaskQ) -> ScheduleRecords:
    return ScheduleRecords(app, await app.shared_connection().open_ledger("a test"))


async def queued(app: TaskQ) -> list[Message]:
    """What waits in the app's default queue; it is taken out."""
    broker, queue = await app.open_broker(), app.conf.task_default_queue
    waiting = await broker.ready(queue)
    if not waiting:
        return []
    consumer = await broker.consume([queue], prefetch=1000)
    found: list[Message] = []
    async with asyncio.timeout(LONG_ENOUGH):
        while len(found) < waiting:
            deliveries = await consumer.receive(1000)
            found += [delivery.message for delivery in deliveries]
            await consumer.settle(ack=deliveries)
    await consumer.close()
    return found


def declare(app: TaskQ, schedule: Any = SOON) -> None:
    app.conf.beat_schedule = {"tick": {"task": "proj.tick", "schedule": schedule, "args": [1]}}


async def test_each_instant_is_sent_once_by_several_schedulers(place: Place) -> None:
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(place.app()) for _ in range(3)]
        for app in apps:
            declare(app)
        records = await ledger_of(apps[0])

        async def runs() -> int:
            progress = (await records.progress()).get("tick")
            return progress.runs if progress else 0

        async with scheduling(*apps):
            await eventually(lambda: _more_than(runs, 5))
        progress = (await records.progress())["tick"]
        messages = await queued(apps[0])
    ids = Counter(message.headers["id"] for message in messages)
    assert set(ids.values()) == {1}
    assert len(ids) == progress.runs
    assert {message.headers[HEADER] for message in messages} == {"tick"}


async def _more_than(count: Any, number: int) -> bool:
    return bool(await count() > number)


async def test_what_is_sent_runs(app: TaskQ) -> None:
    ran = asyncio.Event()

    @app.task(bind=True, name="proj.tick")
    async def tick(self: Any, number: int) -> None:
        if self.request.headers[HEADER] == "tick" and number == 1:
            ran.set()

    declare(app)
    async with running(app), scheduling(app), asyncio.timeout(20):
        await ran.wait()


async def test_edits_are_seen_while_it_runs(place: Place) -> None:
    async with place.app() as app, place.app() as other:
        declare(app, FAR)
        async with scheduling(app):
            await other.schedules.put("mine", SOON, app.signature("proj.mine", (7,)))
            first = await eventually(lambda: queued(app))
            assert {(message.headers["task"], message.headers[HEADER]) for message in first} == {
                ("proj.mine", "mine")
            }
            await other.schedules.pause("mine")
            await asyncio.wait([asyncio.create_task(_quiet(other))], timeout=30)
            await other.schedules.resume("mine")
            assert await eventually(lambda: queued(app))
            await other.schedules.remove("mine")
            assert await other.schedules.get("mine") is None


async def _quiet(app: TaskQ) -> None:
    """Return when progress no longer changes."""
    records, before = await ledger_of(app), None
    while (now := (await records.progress())["mine"]) != before:
        before = now
        await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=1.5)


async def test_entries_at_run_time(app: TaskQ) -> None:
    declare(app, crontab(0, 6))
    schedules = app.schedules
    await schedules.put("mine", "5m", app.signature("proj.mine", (7,), {"a": [1]}).set(queue="q", expires=60))
    found = await schedules.all()
    assert [(name, one.owner, one.paused) for name, one in found.items()] == [
        ("mine", "user", False),
        ("tick", "code", False),
    ]
    mine = found["mine"].entry
    assert (mine.task, list(mine.args), mine.kwargs) == ("proj.mine", [7], {"a": [1]})
    assert mine.options == {"queue": "q", "expires": 60}
    six, seven = await schedules.next("tick", 2)
    assert (six.hour, seven - six) == (6, timedelta(days=1))
    await schedules.pause("tick")
    paused = await schedules.get("tick")
    assert paused is not None
    assert (paused.paused, paused.next, paused.owner) == (True, None, "code")
    await schedules.resume("tick")
    result = await schedules.run_now("tick")
    [message] = await queued(app)
    assert (message.headers["id"], message.headers[HEADER]) == (result.id, "tick")


async def test_what_is_put_stands_instead_of_the_code_until_it_is_removed(app: TaskQ) -> None:
    declare(app, FAR)
    await app.schedules.put("tick", "1h", app.signature("proj.other"))
    edited = await app.schedules.get("tick")
    assert edited is not None
    assert (edited.owner, edited.entry.task) == ("user", "proj.other")
    await app.schedules.remove("tick")
    restored = await app.schedules.get("tick")
    assert restored is not None
    assert (restored.owner, restored.entry.task) == ("code", "proj.tick")


async def test_wrong_uses_are_told(app: TaskQ) -> None:
    declare(app, FAR)
    schedules = app.schedules
    for verb in (schedules.pause, schedules.resume, schedules.remove, schedules.run_now, schedules.next):
        with pytest.raises(KeyError, match=r"no entry 'tack'.*tick"):
            await verb("tack")
    with pytest.raises(ValueError, match="declared in the code"):
        await schedules.remove("tick")
    with pytest.raises(TypeError, match="let a task send"):
        await schedules.put("x", 1, chain(app.signature("a"), app.signature("b")))
    with pytest.raises(EncodeError, match="'x' cannot be kept"):
        await schedules.put("x", 1, app.signature("a", (object(),)))
    assert await schedules.get("x") is None


def test_the_same_verbs_block(place: Place) -> None:
    app = place.app()
    declare(app, FAR)
    schedules = app.schedules.sync
    schedules.put("mine", "1h", app.signature("proj.mine"))
    schedules.pause("mine")
    schedules.resume("mine")
    assert schedules.run_now("mine").id
    assert len(schedules.next("mine", 3)) == 3
    assert schedules.get("mine") == schedules.all()["mine"]
    schedules.remove("mine")
    assert list(schedules.all()) == ["tick"]
    run_sync(app.close(), "app.close()")


# == what passed


@pytest.mark.parametrize(("catch_up", "sent"), [("last", 1), ("none", 0), ("all", 3)])
async def test_after_an_absence_it_catches_up_by_policy(
    place_memory: Place, catch_up: Any, sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with place_memory.app() as app:
        declare(app, every("1h", catch_up=catch_up))
        records, now = await ledger_of(app), datetime.now(UTC)
        hour = now.replace(minute=0, second=0, microsecond=0)
        app.conf.beat_max_lateness = 0  # else an instant of the last minute would be a fresh one
        await records.begin("tick", hour - timedelta(hours=2, minutes=30))
        async with scheduling(app):
            await eventually(lambda: _caught_up(records, hour))
        assert len(await queued(app)) == sent
    left_out = [record.message for record in caplog.records if "are left out" in record.message]
    assert len(left_out) == (sent < 3)


async def _caught_up(records: ScheduleRecords, hour: datetime) -> bool:
    return (await records.progress())["tick"].last >= hour


async def test_an_entry_ends_after_so_many_runs(place_memory: Place) -> None:
    async with place_memory.app() as app:
        declare(app, every(0.05, max_runs=2))
        async with scheduling(app):
            await eventually(lambda: _ended(app))
        assert len(await queued(app)) == 2


async def _ended(app: TaskQ) -> bool:
    found = await app.schedules.get("tick")
    return found is not None and found.next is None


async def test_an_earlier_instant_never_replaces_a_later_one(place_memory: Place) -> None:
    async with place_memory.app() as app:
        records, start = await ledger_of(app), datetime(2026, 1, 1, tzinfo=UTC)
        known = await records.begin("x", start)
        later = await records.advance("x", known, start + timedelta(hours=2), sent=True)
        stale = await records.advance("x", known, start + timedelta(hours=1), sent=True)
        assert stale == later == (await records.progress())["x"]
        assert (later.runs, later.sent) == (1, (start + timedelta(hours=2),))


@pytest.mark.autojump
async def test_a_year_of_a_weekly_entry() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AutojumpLoop)
    async with TaskQ("proj", broker="memory://a-year", beat_max_loop_interval="1d") as app:
        declare(app, crontab(0, 6, "mon", tz="Europe/Berlin"))
        async with scheduling(app):
            await asyncio.sleep(364 * 86400)
        assert len(await queued(app)) == 52


# == overlaps


@pytest.mark.parametrize(
    ("overlap", "ended", "sent"),
    [
        ("skip", (), False),
        ("skip", (0, 1), True),
        ("queue_one", (0,), True),
        ("queue_one", (), False),
        ("cancel_running", (), True),
        ("allow", (), True),
    ],
)
async def test_overlaps(place_memory: Place, overlap: Any, ended: tuple[int, ...], sent: bool) -> None:  # noqa: FBT001 - a parametrised value
    async with place_memory.app() as app:
        declare(app, every("1s", overlap=overlap, max_runs=3))
        records, now = await ledger_of(app), datetime.now(UTC).replace(microsecond=0)
        before = [now - timedelta(seconds=seconds) for seconds in (4, 3)]
        entry = (await records.entries())[0]["tick"]
        for number in ended:
            await _store_result(app, entry.task_id(app, before[number]))
        known = await records.begin("tick", before[0] - timedelta(seconds=1))
        for instant in before:
            known = await records.advance("tick", known, instant, sent=True)
        async with scheduling(app):
            assert (await eventually(lambda: _runs_beyond(records, known)) > known.runs) is sent
        revoked = await (await app.open_broker()).revoked([entry.task_id(app, one) for one in before])
        assert bool(revoked) is (overlap == "cancel_running")


async def _runs_beyond(records: ScheduleRecords, known: Progress) -> int:
    """How many runs there were once it has come further; 0 until then."""
    progress = (await records.progress())["tick"]
    return progress.runs if progress.last > known.last else 0


async def _store_result(app: TaskQ, task_id: str) -> None:
    await (await app.open_store()).save([TaskResult(task_id, "SUCCESS", None)])


@pytest.mark.parametrize(
    ("settings", "options", "why"),
    [
        ({"backend": "disabled://"}, {}, "disabled:// cannot tell"),
        ({}, {"ignore_result": True}, "results of proj.tick, which are ignored"),
    ],
)
async def test_an_overlap_that_cannot_be_known_is_refused(
    settings: Mapping[str, Any], options: Mapping[str, Any], why: str
) -> None:
    async with TaskQ("proj", broker="memory://overlap", **settings) as app:
        app.conf.beat_schedule = {
            "tick": {"task": "proj.tick", "schedule": every("1s", overlap="skip"), "options": options}
        }
        with pytest.raises(ConfigError, match=why):
            await Scheduler(app).run()
        with pytest.raises(ConfigError, match=why):
            await app.schedules.put("x", every(1, overlap="skip"), app.signature("proj.tick").set(**options))


# == RabbitMQ


async def test_without_a_place_for_a_ledger_it_says_what_to_set() -> None:
    async with TaskQ("proj", broker="amqp://nowhere.invalid//") as app:
        with pytest.raises(ConfigError, match=r"a scheduler needs .* set ledger_url"):
            await Scheduler(app).check()
        with pytest.raises(ConfigError, match=r"app.schedules needs .* set ledger_url"):
            await app.schedules.all()


@pytest.mark.redis
@pytest.mark.rabbitmq
async def test_what_a_dead_scheduler_has_marked_is_sent_by_another(place_rabbitmq: Place) -> None:
    async with place_rabbitmq.app() as app:
        instant = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
        declare(app, every("1d", anchor=instant))
        records = await ledger_of(app)
        await records.begin("tick", instant - timedelta(seconds=1))
        entry = (await records.entries())[0]["tick"]
        await records.ledger.mark([Mark(entry.once(app, instant), "who died", 3)])
        async with scheduling(app):
            assert await queued(app) == []
            [message] = await eventually(lambda: queued(app))
        assert message.headers["id"] == entry.task_id(app, instant)
