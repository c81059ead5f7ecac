"""Messages signed by a shared secret: what was not signed, or was changed, is never run."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from taskq import TaskQ, chord, group, signals
from taskq.clock import now
from taskq.errors import ChordError, UntrustedMessage
from taskq.wire.control import ControlCommand, write_command, write_reply
from taskq.wire.message import Message
from taskq.wire.protocol import Call, encode
from taskq.wire.result import TaskResult
from taskq.wire.serializers import get_serializer
from taskq.wire.signing import HEADER, ROUTE, sign, verify
from taskq.worker.remote.guard import Guard
from tests.harness import Place, running
from tests.polling import eventually
from tests.rabbit import rabbit_vhost

SECRETS = ("correct horse battery staple", "an older one, still good")


@pytest.fixture
def place_redis(redis_url: str) -> Place:
    url, options = f"{redis_url}/9", {"global_keyprefix": f"signed-{uuid.uuid4().hex[:8]}:"}
    return Place(url, url, {"broker_transport_options": options, "result_backend_transport_options": options})


@pytest.fixture
def place_amqp(amqp_url: str) -> Any:
    with rabbit_vhost(amqp_url) as url:
        yield Place(url, f"memory://{uuid.uuid4()}")


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


def signed_app(place: Place, *secrets: str) -> TaskQ:
    app = place.app(security_secrets=secrets, task_create_missing_queues=True)

    @app.task(name="signed.add")
    async def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="signed.again", bind=True, default_retry_delay=0)
    async def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    return app


async def test_signed_messages_run_with_all_that_follows(place: Place) -> None:
    """Retries, chains, groups and delays are messages of the worker's own: signed, too."""
    app = signed_app(place, *SECRETS)
    add: Any = app.tasks["signed.add"]
    async with app, running(app):
        assert (
            await (await add.apply_async((1, 2), headers={"mine": [1, None, 2.5, {"a": True}]})).get(10) == 3
        )
        assert await (await add.apply_async((1, 2), countdown=0.1, priority=3)).get(10) == 3
        assert await (await app.tasks["signed.again"].delay()).get(10) == 1
        assert await (await (add.s(1, 2) | add.s(4)).apply_async()).get(10) == 7


async def test_a_worker_refuses_what_is_not_signed_and_believes_none_of_it(place_memory: Place) -> None:
    app, stranger = signed_app(place_memory, *SECRETS), signed_app(place_memory)
    async with app, stranger, running(app):
        result = await stranger.send_task("signed.add", (1, 2))
        broker = await app.open_broker()
        letters = await eventually(broker.dead)
        assert "not signed" in letters[0].reason
        await result.refresh()
        assert result.state == "PENDING"


async def test_secrets_can_be_changed_without_a_gap(place_memory: Place) -> None:
    old, new = signed_app(place_memory, SECRETS[1]), signed_app(place_memory, *SECRETS)
    async with old, new, running(new):
        assert await (await old.send_task("signed.add", (1, 2))).get(10) == 3


async def test_receivers_of_signals_may_change_headers(place_memory: Place) -> None:
    app = signed_app(place_memory, *SECRETS)

    def mark(headers: dict[str, Any], **_: Any) -> None:
        headers["marked"] = 1

    signals.before_task_publish.connect(mark)
    try:
        async with app, running(app):
            add = app.signature("signed.add", (1, 2))
            assert await (await (add | app.signature("signed.add", (4,))).apply_async()).get(10) == 7
    finally:
        signals.before_task_publish.disconnect(mark)


def signed() -> Message:
    message = encode(Call("signed.add", "an-id", (1, 2), {}, get_serializer("json")))
    sign([message], SECRETS)
    return message


def header(name: str, value: Any) -> Callable[[Message], None]:
    return lambda message: message.headers.__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        header("task", "signed.other"),
        header("id", "another"),
        header("eta", "2030-01-01T00:00:00+00:00"),
        header("retries", 1),
        header("new", 1),
        header(HEADER, "0" * 64),
        header(HEADER, "ä"),
        header(HEADER, 17),
        header("deep", {1: {"a": 2}, "b": 3}),
        header("x-death-of-mine", 1),
        header("x-taskq-mine", 1),
        header(ROUTE, ["", "elsewhere", 0]),
        lambda message: setattr(message, "priority", 9),
        lambda message: setattr(message, "body", message.body.replace(b"1", b"2")),
        lambda message: setattr(message, "reply_to", "elsewhere"),
        lambda message: setattr(message, "content_type", "application/x-python-serialize"),
    ],
)
def test_any_change_is_noticed(change: Callable[[Message], None]) -> None:
    message = signed()
    verify(message, SECRETS)
    change(message)
    with pytest.raises(UntrustedMessage):
        verify(message, SECRETS)


def test_what_brokers_add_is_no_change() -> None:
    message = signed()
    message.headers |= {
        "x-death": [{"count": 1}],
        "x-first-death-queue": "celery",
        "x-last-death-reason": "expired",
        "x-delivery-count": 2,
        "redelivered": True,
        "x-taskq-due": 1,
    }
    verify(message, SECRETS)


def test_without_secrets_nothing_is_signed_nor_asked_for() -> None:
    message = encode(Call("signed.add", "an-id", (1, 2), {}, get_serializer("json")))
    sign([message], ())
    assert HEADER not in message.headers
    verify(message, ())


def test_secrets_are_not_shown(place_memory: Place) -> None:
    app = signed_app(place_memory, *SECRETS)
    assert "horse" not in repr(app.conf)
    assert "horse" not in str(app.conf.masked())


async def test_a_signed_message_runs_in_no_other_queue(place: Place) -> None:
    app = signed_app(place, *SECRETS)
    [message] = app.prepare(app.signature("signed.add", (1, 2)).set(queue="cheap")).messages
    async with app, running(app, queues=["costly"]):
        broker = await app.open_broker()
        await broker.publish([replace(message, routing_key="costly")])
        [letter] = await eventually(broker.dead)
        assert "does not lead to queue costly" in letter.reason


async def test_signed_messages_go_through_exchanges(place: Place) -> None:
    queues = [
        {"name": "reports", "exchange": "documents", "exchange_type": "topic", "routing_key": "report.#"}
    ]
    app = signed_app(place, *SECRETS)
    app.conf.update(task_queues=queues)
    add: Any = app.tasks["signed.add"]
    async with app, running(app, queues=["reports"]):
        where = {"exchange": "documents", "routing_key": "report.daily"}
        assert await (await add.apply_async((1, 2), **where)).get(10) == 3
        assert await (await add.apply_async((1, 2), countdown=1.1, **where)).get(10) == 3


async def test_parts_of_chords_are_signed(place: Place) -> None:
    app = signed_app(place, *SECRETS)
    add: Any = app.tasks["signed.add"]

    @app.task(name="signed.total")
    async def total(values: list[Any]) -> Any:
        return values

    async with app, running(app):
        flow = chord(
            [add.s(1, 2), group(add.s(3, 4), add.s(5, 6)) | app.signature("signed.total")], total.s()
        )
        assert await (await flow.apply_async()).get(10) == [3, [7, 11]]


async def test_a_part_that_nobody_signed_fails_its_chord(place: Place) -> None:
    """Who writes to the result store chooses no arguments of the body."""
    app, forger = signed_app(place, *SECRETS), signed_app(place)
    add: Any = app.tasks["signed.add"]

    @app.task(name="signed.total")
    async def total(values: list[Any]) -> Any:
        return values

    flow = chord([add.s(1, 2), add.s(3, 4)], total.s())
    async with app, forger:
        result: Any = await flow.apply_async()
        group_id = result.parent.id
        member = result.parent.results[0].id
        forged = TaskResult(member, "SUCCESS", "rm -rf", group_id=group_id)
        await (await forger.open_store()).join(forged, 0)
        async with running(app):
            with pytest.raises(ChordError, match="not signed"):
                await result.get(10)


async def test_remote_control_is_signed_both_ways(place: Place) -> None:
    app, stranger = signed_app(place, *SECRETS), signed_app(place)
    async with app, stranger, running(app) as worker:
        assert await app.control.ping(timeout=5, destination=[worker.hostname]) == [
            {worker.hostname: {"ok": "pong"}}
        ]
        assert await app.control.rate_limit("signed.add", "10/s", reply=True, limit=1, timeout=5)
        await stranger.control.shutdown()
        assert await stranger.control.ping(timeout=0.5) == []
        assert await (await app.send_task("signed.add", (1, 2))).get(10) == 3


def command(expires: Any, secrets: Sequence[str] = SECRETS) -> Message:
    message = write_command(
        ControlCommand("ping"), get_serializer("json"), exchange="celery.pidbox", expires=expires
    )
    sign([message], secrets)
    return message


def test_a_command_counts_in_time_and_once() -> None:
    guard, again = Guard(SECRETS), command(now() + 300)
    guard.require(again)
    with pytest.raises(UntrustedMessage, match="obeyed before"):
        guard.require(again)
    for wrong in (0, None, now() - 120, now() + 10**6, float("nan"), "soon", 10**400):
        with pytest.raises(UntrustedMessage):
            guard.require(command(wrong))
    with pytest.raises(UntrustedMessage, match="not signed"):
        guard.require(command(now() + 300, ()))
    Guard(()).require(command(0, ()))


async def test_replies_of_strangers_are_not_believed(place_memory: Place) -> None:
    app = signed_app(place_memory, *SECRETS)
    reply = write_reply(ControlCommand("ping", ticket="a"), "celery@evil", {"ok": "pong"}, 1)
    assert app.control._read(reply) is None
    sign([reply], SECRETS)
    assert app.control._read(reply) == {"celery@evil": {"ok": "pong"}}
