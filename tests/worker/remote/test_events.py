"""Events of workers, tasks and callers, as monitors receive them."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from taskq import TaskQ
from taskq.errors import OperationalError, Reject
from taskq.remote.events import EventWriter
from taskq.seams.bus import Exchange
from taskq.wire.message import Message
from taskq.worker.remote.events import EventSender
from tests.harness import Place, running
from tests.polling import eventually


class Seen:
    """The events of an app's monitor."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def first(self, kind: str) -> dict[str, Any]:
        await eventually(lambda: self.of(kind))
        return self.of(kind)[0]


@asynccontextmanager
async def monitor(app: TaskQ) -> AsyncIterator[Seen]:
    seen = Seen()
    task = asyncio.create_task(app.events.capture({"*": seen.events.append}, wakeup=True))

    async def listens() -> bool:
        await app.events.send("probe")
        return bool(seen.of("probe"))

    await eventually(listens)
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def add_tasks(app: TaskQ) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="proj.fail")
    async def fail() -> None:
        raise ValueError("boom")

    @app.task(name="proj.refuse")
    async def refuse() -> None:
        raise Reject("no")

    @app.task(name="proj.again", bind=True)
    async def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(exc=KeyError("transient"), countdown=0)
        return 7


async def test_a_task_tells_its_story(place: Place) -> None:
    async with place.app(worker_send_task_events=True) as app, place.app() as caller, monitor(caller) as seen:
        add_tasks(app)
        async with running(app, hostname="w@test"):
            online = await seen.first("worker-online")
            assert (online["hostname"], online["freq"], online["sw_ident"]) == ("w@test", 2.0, "taskq")
            assert (online["active"], online["processed"], len(online["loadavg"])) == (0, 0, 3)
            handle = await caller.send_task("proj.add", (2, 2))
            await handle.get(10)
            done = await seen.first("task-succeeded")
            assert (done["uuid"], done["result"]) == (handle.id, "4")
            assert 0 <= done["runtime"] < 5
            received = await seen.first("task-received")
            assert set(received) == {
                *("hostname", "utcoffset", "pid", "clock", "timestamp", "type", "uuid", "name", "args"),
                *("kwargs", "root_id", "parent_id", "retries", "eta", "expires"),
            }
            assert (received["name"], received["args"], received["kwargs"]) == ("proj.add", "(2, 2)", "{}")
            assert (await seen.first("task-started"))["uuid"] == handle.id
            await caller.send_task("proj.fail")
            failed = await seen.first("task-failed")
            assert failed["exception"] == "ValueError('boom')"
            assert failed["traceback"].startswith("Traceback")
            await caller.send_task("proj.again")
            assert (await seen.first("task-retried"))["exception"] == "KeyError('transient')"
            await caller.send_task("proj.refuse")
            assert (await seen.first("task-rejected"))["requeue"] is False
            await caller.send_task("proj.add", (1, 1), expires=-1)
            revoked = await seen.first("task-revoked")
            assert (revoked["expired"], revoked["terminated"], revoked["signum"]) == (True, False, None)
        offline = await seen.first("worker-offline")
        assert offline["processed"] >= 4
        clocks = [event["clock"] for event in seen.events if event["hostname"] == "w@test"]
        assert clocks == sorted(set(clocks))


def test_a_run_shorter_than_a_millisecond_takes_time() -> None:
    """On the worker's own loop, whose clock counts whole ones."""

    async def runtimes() -> list[float]:
        url = f"memory://{uuid.uuid4()}"
        place = Place(url, url, {"worker_send_task_events": True})
        async with place.app() as app, place.app() as caller, monitor(caller) as seen:
            add_tasks(app)
            async with running(app, hostname="w@test"):
                for _ in range(5):
                    await (await caller.send_task("proj.add", (1, 1))).get(10)
                await eventually(lambda: len(seen.of("task-succeeded")) == 5)
            return [event["runtime"] for event in seen.of("task-succeeded")]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(runtimes())
    assert all(runtime > 0 for runtime in found)
    assert any(round(runtime, 3) != runtime for runtime in found)


async def test_tasks_are_silent_unless_asked(place: Place) -> None:
    async with place.app() as app, place.app() as caller, monitor(caller) as seen:
        add_tasks(app)
        async with running(app, hostname="w@test"):
            await (await caller.send_task("proj.add", (2, 2))).get(10)
            assert await caller.control.enable_events(reply=True, limit=1, timeout=10)
            await (await caller.send_task("proj.add", (3, 3))).get(10)
            assert (await seen.first("task-succeeded"))["result"] == "6"
        assert len(seen.of("task-succeeded")) == 1


async def test_callers_tell_of_what_they_send(place: Place) -> None:
    async with place.app(task_send_sent_event=True) as app, place.app() as other, monitor(other) as seen:
        handle = await app.send_task("proj.add", (2, 2), queue="q")
        sent = await seen.first("task-sent")
        assert sent["hostname"].startswith("gen")
        assert (sent["uuid"], sent["name"], sent["args"]) == (handle.id, "proj.add", "(2, 2)")
        assert (sent["queue"], sent["exchange"], sent["routing_key"], sent["retries"]) == ("q", "", "q", 0)
        await app.events.send("task-custom", note="mine")
        assert (await seen.first("task-custom"))["note"] == "mine"


async def test_workers_tell_of_what_follows_a_run(place: Place) -> None:
    async with place.app(task_send_sent_event=True) as app, place.app() as caller, monitor(caller) as seen:
        add_tasks(app)

        def add(*args: int) -> Any:
            return caller.signature("proj.add", args)

        async with running(app, hostname="w@test"):
            chained = await (add(1, 1) | add(2)).apply_async(link=add(3))
            assert await chained.get(10) == 4
            retried = await caller.send_task("proj.again")
            assert await retried.get(10) == 7
            await eventually(lambda: len(seen.of("task-sent")) == 3)
    step, callback, retry = seen.of("task-sent")
    assert (step["uuid"], step["args"], step["root_id"]) == (chained.id, "(2, 2)", chained.parent.id)
    assert (callback["args"], callback["parent_id"]) == ("(4, 3)", chained.id)
    assert (retry["uuid"], retry["retries"]) == (retried.id, 1)
    for event in (step, callback, retry):
        assert event["hostname"].startswith("gen")
        assert (event["queue"], event["routing_key"]) == ("celery", "celery")


async def test_only_what_the_pattern_says_is_received(place: Place) -> None:
    async with place.app() as app, place.app() as other:
        events = other.events.receive("worker.#", wakeup=False)
        waiting = asyncio.ensure_future(anext(events))

        async def arrived() -> bool:
            await app.events.send("task-x")
            await app.events.send("worker-x")
            return waiting.done()

        await eventually(arrived)
        assert waiting.result()["type"] == "worker-x"
        await events.aclose()


async def test_what_is_no_event_is_passed_over(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with place.app() as app, place.app() as other, monitor(other) as seen:
        bus, exchange = (await app.open_broker()).bus, Exchange("celeryev", "topic", durable=True)
        for body in (b"{", b"7", b'[1, {"type": 1}, {}]'):
            await bus.announce(exchange, [Message({}, body, exchange="celeryev", routing_key="task.multi")])
        await bus.announce(exchange, [Message({}, b"x", "application/x-python-serialize", routing_key="a")])
        await app.events.send("task-good")
        await seen.first("task-good")
        assert {event["type"] for event in seen.events} == {"probe", "task-good"}
    assert len([r for r in caplog.records if "unreadable event" in r.message]) == 2


class BrokenBus:
    """As when the broker is away."""

    def __init__(self) -> None:
        self.tries = 0

    async def announce(self, _exchange: Exchange, _messages: Sequence[Message]) -> None:
        self.tries += 1
        raise OperationalError("away")

    async def listen(self, _inbox: Any) -> Any:
        raise OperationalError("away")


async def test_lost_events_disturb_nothing_and_are_told_once(
    app: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    bus = BrokenBus()
    sender = EventSender(bus, EventWriter(app.conf, app.clock, "w@test"), dict)
    caplog.set_level(logging.WARNING)
    for number in range(3):
        sender.put("task-x", {"n": number})
        await asyncio.sleep(0)
    await sender.close()
    assert bus.tries >= 2
    assert [record.levelname for record in caplog.records if "events are lost" in record.message] == [
        "WARNING"
    ]
