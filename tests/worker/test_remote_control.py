"""Each command of remote control, on a worker in the test's loop: what it answers and what it does."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson
import pytest

from taskq import TaskQ, signals
from taskq.errors import OperationalError, TaskRevokedError
from taskq.remote.control import Mailbox
from taskq.results.handles import ResultSet
from taskq.seams.broker import Queue
from taskq.seams.bus import Exchange, Inbox
from taskq.wire.message import Message
from taskq.worker import Worker
from tests.harness import Place, running
from tests.polling import eventually

NODE = "w@test"


class Site:
    """An app with a worker, and another app that commands it."""

    def __init__(self, app: TaskQ, caller: TaskQ, worker: Worker) -> None:
        self.app, self.caller, self.worker = app, caller, worker
        self.gate = asyncio.Event()

    async def tell(self, command: str, **arguments: Any) -> Any:
        """The node's reply."""
        [reply] = await self.caller.control.broadcast(
            command, arguments, reply=True, timeout=10, destination=[NODE]
        ) or [{}]
        return reply[NODE]

    async def ids(self, command: str) -> list[str]:
        found = await self.tell(command)
        return [one.get("request", one)["id"] for one in found]


@pytest.fixture
async def site(place: Place) -> AsyncIterator[Site]:
    caller = place.app()
    async with place.app() as app, caller:
        add_tasks(app)
        async with running(app, hostname=NODE, concurrency=4, grace=0.0) as worker:
            yield Site(app, caller, worker)


stop = threading.Event()


def add_tasks(app: TaskQ) -> None:  # noqa: C901 - several small ones
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="proj.sleep")
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @app.task(name="proj.stubborn")
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return

    @app.task(name="proj.spin")
    def spin() -> None:
        while True:
            time.sleep(0.005)

    @app.task(name="proj.deaf")
    def deaf() -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and not stop.is_set():
            try:
                time.sleep(0.005)
            except TaskRevokedError:
                continue


async def begun(site: Site, task: str, *args: Any) -> Any:
    handle = await site.caller.send_task(f"proj.{task}", args)
    await eventually(lambda: any(job.request.id == handle.id for job in site.worker.running))
    return handle


# == looking


async def test_ping_and_clock(site: Site) -> None:
    assert await site.caller.control.ping(timeout=0.2) == [{NODE: {"ok": "pong"}}]
    first = (await site.tell("clock"))["clock"]
    assert (await site.tell("clock"))["clock"] > first


async def test_who_is_meant(site: Site) -> None:
    control = site.caller.control
    assert await control.ping(["other@test"], timeout=0.2) == []
    for pattern, matcher, found in (
        ("w@*", "glob", 1),
        ("x@*", "glob", 0),
        ("^w@.+t$", "pcre", 0),  # off: see worker_pcre_matchers
        ("(", "pcre", 0),
    ):
        replies = await control.broadcast(
            "ping", pattern=pattern, matcher=matcher, reply=True, timeout=0.3, limit=found or None
        )
        assert len(replies or ()) == found, pattern


async def test_errors_are_replies(site: Site) -> None:
    assert await site.tell("no_such_command") == {"error": "KeyError('no_such_command')"}
    missing = "missing 2 required positional arguments: 'task_name' and 'rate_limit'"
    assert await site.tell("rate_limit", zzz=1) == {"error": f'TypeError("rate_limit() {missing}")'}


async def test_active_and_stats(site: Site) -> None:
    handle = await begun(site, "sleep", 60)
    [info] = await site.tell("active")
    assert (info["id"], info["name"], info["type"]) == (handle.id, "proj.sleep", "proj.sleep")
    assert (info["args"], info["kwargs"], info["hostname"]) == ([60], {}, NODE)
    assert info["delivery_info"]["routing_key"] == "celery"
    assert abs(info["time_start"] - time.time()) < 30
    [safe] = await site.tell("active", safe=True)
    assert (safe["args"], safe["kwargs"]) == ("(60,)", "{}")
    stats = await site.tell("stats")
    assert stats["total"] == {"proj.sleep": 1}
    assert stats["pool"]["max-concurrency"] == 4
    assert stats["broker"]["transport"] == "memory"
    assert stats["clock"].isdecimal()


async def test_reserved_scheduled_and_query_task(site: Site) -> None:
    handles = [await begun(site, "sleep", 60) for _ in range(4)]
    waiting = await site.caller.send_task("proj.add", (1, 1))
    later = await site.caller.send_task("proj.add", (1, 1), countdown=30)
    await eventually(lambda: site.ids("scheduled"))
    assert await eventually(lambda: site.ids("reserved")) == [waiting.id]
    [entry] = await site.tell("scheduled")
    assert entry["request"]["id"] == later.id
    assert entry["eta"] > "2026"
    asked = [handles[0].id, waiting.id, later.id, "unknown"]
    found = await site.tell("query_task", ids=asked)
    assert {task_id: state for task_id, (state, _) in found.items()} == {
        handles[0].id: "active",
        waiting.id: "reserved",
        later.id: "scheduled",
    }


async def test_registered(site: Site) -> None:
    names = ["proj.add", "proj.deaf", "proj.sleep", "proj.spin", "proj.stubborn"]
    assert await site.tell("registered") == names
    assert "celery.map" in await site.tell("registered", builtins=True)
    shown = await site.tell("registered", taskinfoitems=["max_retries", "rate_limit", "_app"])
    assert shown[0] == "proj.add [max_retries=3]"


async def test_active_queues_have_the_shape_celery_gives_them(site: Site) -> None:
    [queue] = await site.tell("active_queues")
    assert queue == {
        "name": "celery",
        "exchange": {
            "name": "celery",
            "type": "direct",
            "arguments": None,
            "durable": True,
            "passive": False,
            "auto_delete": False,
            "delivery_mode": None,
            "no_declare": False,
        },
        "routing_key": "celery",
        **dict.fromkeys(
            ("queue_arguments", "binding_arguments", "consumer_arguments", "alias", "no_declare")
        ),
        **dict.fromkeys(("expires", "message_ttl", "max_length", "max_length_bytes", "max_priority")),
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "no_ack": False,
        "bindings": [],
    }


async def test_conf_and_report_hide_passwords(site: Site) -> None:
    site.app.conf.broker_transport_options = {"password": "s3cret"}
    site.app.conf.task_routes = {"x": print}
    conf = await site.tell("conf")
    assert conf["broker_url"].startswith("memory://")
    assert "task_always_eager" not in conf
    assert (await site.tell("conf", with_defaults=True))["task_always_eager"] is False
    assert "built-in function print" in str(conf["task_routes"])
    assert "s3cret" not in str(conf) + str(await site.tell("report"))


async def test_memory_and_election(site: Site) -> None:
    samples = [await site.tell("memsample") for _ in range(3)]
    assert all(sample.endswith("MB") for sample in samples)
    dump = (await site.tell("memdump", samples=2)).splitlines()
    assert dump[0] == "- rss (sample):"
    assert dump[-1].startswith("- rss (end): ")
    assert 1 <= len(dump) - 2 <= 2
    assert await site.tell("objgraph") == {"error": "ValueError('Object graphs not enabled')"}
    assert await site.tell("election", id="e", topic="t", action=None) is None


async def test_hello_shares_what_is_revoked(site: Site) -> None:
    assert await site.tell("hello", from_node=NODE) is None
    told = await site.tell("hello", from_node="other@test", revoked={"from-other": 1.5})
    assert told["revoked"] == ["from-other"]
    assert told["clock"] > 0
    assert await site.tell("revoked") == ["from-other"]


# == revoking


async def test_a_scheduled_task_is_taken_out_at_once(site: Site) -> None:
    handle = await site.caller.send_task("proj.add", (1, 1), countdown=30)
    await eventually(lambda: site.ids("scheduled"))
    await handle.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        await handle.get(10)
    assert await site.ids("scheduled") == []


async def test_a_task_that_waits_for_room_is_taken_out_at_once(site: Site) -> None:
    for _ in range(4):
        await begun(site, "sleep", 60)
    handle = await site.caller.send_task("proj.add", (1, 1))
    await eventually(lambda: site.ids("reserved"))
    assert await site.tell("revoke", task_id=handle.id) == {
        "ok": f"tasks {{'{handle.id}'}} flagged as revoked"
    }
    with pytest.raises(TaskRevokedError):
        await handle.get(10)


async def test_a_running_task_goes_on_without_terminate(site: Site) -> None:
    handle = await begun(site, "sleep", 0.3)
    await handle.revoke()
    assert await handle.get(10) == "slept"


@pytest.mark.parametrize("task", ["stubborn", "spin"])
async def test_terminate_ends_a_run(site: Site, task: str) -> None:
    told: list[dict[str, Any]] = []

    def hear(**fields: Any) -> None:
        told.append(fields)

    signals.task_revoked.connect(hear)
    try:
        handle = await begun(site, task)
        assert await site.tell("terminate", task_id=handle.id, signal="TERM") == {
            "ok": f"terminate: {handle.id}"
        }
        with pytest.raises(TaskRevokedError, match="terminated"):
            await handle.get(10)
        await eventually(lambda: told)
        assert [(one["terminated"], one["signum"], one["expired"]) for one in told] == [(True, 15, False)]
    finally:
        signals.task_revoked.disconnect(hear)
    await eventually(lambda: not site.worker.running)


async def test_a_thread_that_does_not_end_is_left_behind(site: Site) -> None:
    stop.clear()
    try:
        handle = await begun(site, "deaf")
        await handle.revoke(terminate=True)
        with pytest.raises(TaskRevokedError, match="terminated"):
            await handle.get(10)
    finally:
        stop.set()


async def test_terminating_what_nobody_runs(site: Site) -> None:
    reply = await site.tell("revoke", task_id=["a", "b"], terminate=True, signal="SIGKILL")
    assert reply == {"ok": "terminate: tasks unknown"}
    assert await site.tell("revoked") == ["a", "b"]
    assert "no signal" in (await site.tell("terminate", signal="NOPE", task_id="a"))["error"]
    assert "not text" in (await site.tell("revoke", task_id=[7]))["error"]


async def test_stamped_tasks_are_revoked(site: Site) -> None:
    def stamped(tenant: str, seconds: float, **options: Any) -> Any:
        signature = site.caller.signature("proj.sleep", (seconds,), **options)
        return signature.stamp(tenant=tenant)

    acme = await stamped("acme", 60).apply_async()
    other = await stamped("other", 0.01, countdown=0.5).apply_async()
    await eventually(lambda: len(site.worker.running) == 1)
    reply = await site.tell("revoke_by_stamped_headers", headers={"tenant": ["acme"]})
    assert reply == {"ok": "headers {'tenant': ['acme']} flagged as revoked, but not terminated"}
    reply = await site.tell("revoke_by_stamped_headers", headers=["tenant=acme"], terminate=True)
    assert reply == {"ok": "headers {'tenant': 'acme'} revoked"}
    with pytest.raises(TaskRevokedError):
        await acme.get(10)
    with pytest.raises(TaskRevokedError):
        await (await stamped("acme", 0.01).apply_async()).get(10)
    assert await other.get(10) == "slept"
    reply = await site.tell("revoke_by_stamped_headers", headers={"a": "b"}, terminate=True)
    assert reply == {"ok": "headers {'a': 'b'} were not terminated"}


async def test_a_worker_that_starts_later_heeds_it(place: Place) -> None:
    async with place.app() as app:
        add_tasks(app)
        revoked, kept = [await app.send_task("proj.add", (1, 1)) for _ in range(2)]
        stamped = await app.signature("proj.add", (1, 1)).stamp(tenant="acme").apply_async()
        await revoked.revoke()
        async with running(place.app(), hostname=NODE, queues=["none"]):
            told = await app.control.revoke_by_stamped_headers(
                {"tenant": "acme"}, reply=True, limit=1, timeout=10
            )
            assert told
        async with running(app):
            assert await kept.get(10) == 2
            for handle in (revoked, stamped):
                with pytest.raises(TaskRevokedError):
                    await handle.get(10)


async def test_a_whole_group_is_terminated(site: Site) -> None:
    handles = [await begun(site, "sleep", 60) for _ in range(2)]
    await ResultSet(handles).revoke(terminate=True)
    for handle in handles:
        with pytest.raises(TaskRevokedError):
            await handle.get(10)


# == limits


async def test_rate_limits_let_one_through_at_a_time_and_others_pass(site: Site) -> None:
    assert await site.tell("rate_limit", task_name="proj.add", rate_limit="1/h") == {
        "ok": "new rate limit set successfully"
    }
    first = await site.caller.send_task("proj.add", (1, 1))
    held = [await site.caller.send_task("proj.add", (1, n)) for n in range(3)]
    assert await first.get(10) == 2
    assert await (await site.caller.send_task("proj.sleep", (0.01,))).get(10) == "slept"
    assert await eventually(lambda: site.ids("scheduled")) == [handle.id for handle in held]
    await held[0].revoke()
    with pytest.raises(TaskRevokedError):
        await held[0].get(10)
    assert await site.tell("rate_limit", task_name="proj.add", rate_limit=0) == {
        "ok": "rate limit disabled successfully"
    }
    assert [await handle.get(10) for handle in held[1:]] == [2, 3]


async def test_rate_limits_of_unknown_tasks_and_bad_ones(site: Site) -> None:
    assert await site.tell("rate_limit", task_name="no.such", rate_limit="10/m") == {"error": "unknown task"}
    for rate in ("x/y", "1/y"):
        refused = await site.tell("rate_limit", task_name="proj.add", rate_limit=rate)
        assert refused["error"].startswith("Invalid rate limit string: ")
        assert repr(rate) in refused["error"]


async def test_time_limits_hold_for_the_next_run(site: Site) -> None:
    assert await site.tell("time_limit", task_name="proj.sleep", hard=0.1, soft=None) == {
        "ok": "time limits set successfully"
    }
    handle = await site.caller.send_task("proj.sleep", (30,))
    await handle.get(10, propagate=False)
    assert handle.state == "FAILURE"
    assert await site.tell("time_limit", task_name="no.such", hard=1) == {"error": "unknown task"}
    assert "no time limit" in (await site.tell("time_limit", task_name="proj.add", hard="x"))["error"]
    await site.tell("time_limit", task_name="proj.sleep", hard=0, soft=0)
    assert await (await site.caller.send_task("proj.sleep", (0.2,))).get(10) == "slept"


# == events


async def test_events_are_switched_on_and_off(site: Site) -> None:
    for command, reply in (
        ("disable_events", "task events already disabled"),
        ("enable_events", "task events enabled"),
        ("enable_events", "task events already enabled"),
        ("disable_events", "task events disabled"),
    ):
        assert await site.tell(command) == {"ok": reply}


# == queues, size, stop


async def test_queues_are_added_and_cancelled(site: Site) -> None:
    handle = await site.caller.send_task("proj.add", (1, 2), queue="extra")
    for _ in range(2):
        assert await site.tell("add_consumer", queue="extra", exchange=None, exchange_type="direct") == {
            "ok": "add consumer extra"
        }
    assert await handle.get(10) == 3
    assert [queue["name"] for queue in await site.tell("active_queues")] == ["celery", "extra"]
    for _ in range(2):
        assert await site.tell("cancel_consumer", queue="celery") == {"ok": "no longer consuming from celery"}
    left = await site.caller.send_task("proj.add", (1, 2))
    assert await (await site.caller.send_task("proj.add", (3, 4), queue="extra")).get(10) == 7
    assert not await left.ready()
    await site.tell("add_consumer", queue="celery")
    assert await left.get(10) == 3


async def test_the_number_of_slots_changes(site: Site) -> None:
    assert await site.tell("pool_grow", n=2) == {"ok": "pool will grow"}
    for _ in range(6):
        await begun(site, "sleep", 60)
    assert await site.tell("pool_shrink", n=5) == {"ok": "pool will shrink"}
    assert (await site.tell("stats"))["pool"]["max-concurrency"] == 1
    assert await site.tell("pool_shrink", n=1) == {
        "error": 'ValueError("Can\'t shrink pool. All processes busy!")'
    }
    assert "no number" in (await site.tell("pool_grow", n="many"))["error"]


async def test_the_range_of_slots_changes(place: Place) -> None:
    caller = place.app()
    async with place.app(worker_autoscale="10,3") as app, caller, running(app, hostname=NODE) as worker:
        site = Site(app, caller, worker)
        assert await site.tell("autoscale", max=20, min=5) == {"ok": "autoscale now max=20 min=5"}
        stats = await site.tell("stats")
        assert stats["autoscaler"] == {"max": 20, "min": 5, "current": 5, "qty": 0}
        assert stats["pool"]["max-concurrency"] == 5
        assert await site.tell("autoscale", max=4, min=0) == {"ok": "autoscale now max=4 min=1"}
        assert (await site.tell("stats"))["autoscaler"]["current"] == 4
        assert await site.tell("autoscale", max=6) == {"ok": "autoscale now max=6 min=1"}
        assert await site.tell("autoscale", max=2, min=3) == {
            "error": "ValueError('max=2 is less than min=3')"
        }
        assert "no number" in (await site.tell("autoscale", max="many"))["error"]
        assert (await site.tell("stats"))["autoscaler"]["max"] == 6
        for command in ("pool_grow", "pool_shrink"):
            assert await site.tell(command, n=1) == {
                "error": f"{command} is not supported with autoscale. Adjust autoscale range instead."
            }


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("autoscale", "ValueError('Autoscale not enabled')"),
        ("pool_restart", "ValueError('Pool restarts not enabled')"),
    ],
)
async def test_what_taskq_does_not_do_answers_as_celery_without_it(
    site: Site, command: str, error: str
) -> None:
    assert await site.tell(command) == {"error": error}


async def test_shutdown_is_warm_and_answers_nothing(place: Place) -> None:
    async with place.app() as app, place.app() as caller:
        add_tasks(app)
        async with running(app, hostname=NODE) as worker:
            site = Site(app, caller, worker)
            handle = await begun(site, "sleep", 0.3)
            assert await caller.control.shutdown(reply=True, timeout=0.2) == []
        assert await handle.get(10) == "slept"


async def test_a_worker_may_refuse_remote_control(place: Place) -> None:
    async with place.app(worker_enable_remote_control=False) as app, place.app() as caller, running(app):
        assert await caller.control.ping(timeout=0.2) == []


async def test_a_limit_ends_the_waiting(site: Site) -> None:
    heard: list[Any] = []
    began = asyncio.get_running_loop().time()
    callback: Callable[[Any], None] = heard.append
    inspect = site.caller.control.inspect(timeout=20, limit=1, callback=callback)
    assert await inspect.ping() == {NODE: {"ok": "pong"}}
    assert heard == [{NODE: {"ok": "pong"}}]
    assert asyncio.get_running_loop().time() - began < 20
    assert await site.caller.control.inspect(["nobody@test"], timeout=0.1).ping() is None


async def test_every_question_has_a_verb(site: Site) -> None:
    inspect = site.caller.control.inspect([NODE], timeout=10)
    asked = [
        *(
            inspect.ping(),
            inspect.active(safe=True),
            inspect.reserved(),
            inspect.scheduled(),
            inspect.revoked(),
        ),
        *(
            inspect.query_task("a"),
            inspect.registered("max_retries"),
            inspect.stats(),
            inspect.active_queues(),
        ),
        *(inspect.conf(with_defaults=True), inspect.report(), inspect.clock(), inspect.memsample()),
        *(inspect.hello("x@test", ["y"]), inspect.memdump(), inspect.objgraph()),
    ]
    for question in asked:
        answer = await question
        assert answer is not None
        assert list(answer) == [NODE]


async def test_every_command_has_a_verb(site: Site) -> None:
    control = site.caller.control
    told = [
        control.revoke("a", reply=True, timeout=10, limit=1),
        control.terminate(["a"], [NODE], reply=True, timeout=10),
        control.revoke_by_stamped_headers({"a": "b"}, [NODE], reply=True, timeout=10),
        control.rate_limit("proj.add", None, [NODE], reply=True, timeout=10),
        control.time_limit("proj.add", 1, 2, [NODE], reply=True, timeout=10),
        control.add_consumer("extra", destination=[NODE], reply=True, timeout=10),
        control.cancel_consumer("extra", destination=[NODE], reply=True, timeout=10),
        control.enable_events(destination=[NODE], reply=True, timeout=10),
        control.disable_events(destination=[NODE], reply=True, timeout=10),
        control.heartbeat(destination=[NODE], reply=True, timeout=10),
        control.pool_grow(1, destination=[NODE], reply=True, timeout=10),
        control.pool_shrink(1, destination=[NODE], reply=True, timeout=10),
    ]
    for command in told:
        [reply] = await command or [{}]
        assert "error" not in (reply[NODE] or {}), reply
    [refused] = await control.pool_restart(destination=[NODE], reply=True, timeout=10) or [{}]
    assert refused[NODE] == {"error": "ValueError('Pool restarts not enabled')"}
    assert await control.heartbeat() is None
    task = site.app.find_task("proj.add")
    assert task is not None
    assert (task.soft_time_limit, task.time_limit) == (1, 2)


async def test_replies_that_are_not_ours_are_passed_over(site: Site) -> None:
    control = site.caller.control
    bus = (await site.caller.open_broker()).bus
    mailbox = Mailbox()
    keys: list[str] = []

    class Spy:
        async def announce(self, exchange: Exchange, messages: Sequence[Message]) -> None:
            [request] = messages
            keys.append(orjson.loads(request.body)["reply_to"]["routing_key"])
            for headers, body in (({"ticket": "other"}, b"{}"), ({}, b"7"), ({"ticket": None}, b"{")):
                await bus.announce(mailbox.replies, [Message(headers, body, routing_key=keys[0])])
            ticket = orjson.loads(request.body)["ticket"]
            for body in (b"[]", b"{", b'{"x@test": 1}'):
                await bus.announce(mailbox.replies, [Message({"ticket": ticket}, body, routing_key=keys[0])])
            await bus.announce(exchange, messages)

        async def listen(self, inbox: Inbox) -> Any:
            return await bus.listen(inbox)

    (await site.caller.open_broker()).bus = Spy()
    try:
        found = await control.broadcast("ping", reply=True, timeout=10, limit=2)
    finally:
        (await site.caller.open_broker()).bus = bus
    assert found == [{"x@test": 1}, {NODE: {"ok": "pong"}}]


async def test_no_reply_goes_into_a_queue_of_tasks(
    on_all_brokers: Place, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"taskq-test-{uuid.uuid4().hex[:12]}"
    default = on_all_brokers.settings.get("task_default_queue", "celery")
    queues = [Queue(default), Queue(name, exchange=f"{name}.x", routing_key="key"), Queue(f"{name}.plain")]
    settings = {**on_all_brokers.settings, "task_queues": queues}
    bad = [
        ("", name),
        (f"{name}.x", "key"),
        (f"{name}.plain", f"{name}.plain"),
        (Mailbox().replies.name, name),
    ]
    app = Place(on_all_brokers.broker, on_all_brokers.backend, settings).app()
    async with app, running(app, hostname=NODE, queues=[default]):
        broker = await app.open_broker()
        for queue in queues[1:]:
            await app.send_task("proj.later", queue=queue.name)
        for exchange, key in bad:
            reply_to = {"exchange": exchange, "routing_key": key}
            body = {"method": "ping", "destination": [NODE], "ticket": "t", "reply_to": reply_to}
            request = Message({"clock": 1, "expires": 0}, orjson.dumps(body), routing_key="")
            await broker.bus.announce(Mailbox().requests, [request])
        [reply] = await app.control.ping([NODE], timeout=10)
        assert reply == {NODE: {"ok": "pong"}}
        assert [await broker.size(queue.name) for queue in queues[1:]] == [1, 1]
        assert [await broker.purge(queue.name) for queue in queues[1:]] == [1, 1]
    warnings = [record.getMessage() for record in caplog.records if "no reply" in record.getMessage()]
    assert len(warnings) == len(bad)
    assert repr(name) in warnings[0]


class DeafBus:
    """As when the broker is away while commands come."""

    async def announce(self, _exchange: Exchange, _messages: Sequence[Message]) -> None:
        raise OperationalError("away")

    async def listen(self, _inbox: Inbox) -> Any:
        raise OperationalError("away")


async def test_a_reply_that_cannot_be_sent_is_lost_and_nothing_else(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await site.app.open_broker()
    bus, broker.bus = broker.bus, DeafBus()
    try:
        assert await site.caller.control.ping(timeout=0.3) == []
    finally:
        broker.bus = bus
    assert "could not be answered" in caplog.text
    assert await site.caller.control.ping([NODE], timeout=10)


async def test_a_revocation_the_broker_does_not_take_holds_here(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise OperationalError("away")

    handle = await site.caller.send_task("proj.add", (1, 1), countdown=30)
    await eventually(lambda: site.ids("scheduled"))
    monkeypatch.setattr(await site.app.open_broker(), "revoke", away)
    await site.tell("revoke", task_id=handle.id)
    with pytest.raises(TaskRevokedError):
        await handle.get(10)
    assert "revoked here only" in caplog.text
