"""Messages that can never be run: none hurts the worker, each is kept, its caller learns of it."""

import asyncio
import json
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskq import NotRegistered, Task, TaskQ
from taskq.broker_adapters.memory.broker import HUBS
from taskq.broker_adapters.memory.line import Waiter
from taskq.errors import ContentDisallowed, DecodeError, WorkerLostError
from taskq.wire.compression import MAX_INFLATED
from tests.harness import Place, running
from tests.polling import eventually

GOOD_HEADERS = {"lang": "py", "task": "proj.add", "id": "bad-one"}
GOOD_BODY = [[2, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


@pytest.fixture
def add(app: TaskQ) -> Task[Any, int, Any]:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return add


def envelope(headers: Any = GOOD_HEADERS, body: Any = GOOD_BODY, **changes: Any) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    properties = {
        "correlation_id": "bad-one",
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "t",
    }
    message = {
        "body": b64encode(raw).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(message | changes).encode()


def with_headers(**headers: Any) -> bytes:
    return envelope({**GOOD_HEADERS, **headers})


def with_links(**links: Any) -> bytes:
    return envelope(body=[[2, 2], {}, links])


#: What may lie in a queue (hazards: a message that cannot be parsed), and whether its id can be told.
POISON: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "text": b'"hello"',
    "no json": b"\xff\xfe\x00",
    "half": envelope()[:100],
    "deep": b"[" * 100_000,
    "no properties": b"{}",
    "body null": envelope(body=None),
    "body empty": envelope(body=b""),
    "body text": envelope(body="hello"),
    "body two": envelope(body=[[1], {}]),
    "body number": envelope(body=7),
    "body not json": envelope(body=b"\x80\x04"),
    "body deep": envelope(body=b"[" * 100_000),
    "args text": envelope(body=["xy", {}, {}]),
    "kwargs list": envelope(body=[[], [], {}]),
    "embed list": envelope(body=[[], {}, [1]]),
    "no task": envelope({"id": "bad-one"}),
    "no id": envelope({"task": "proj.add"}),
    "task a number": with_headers(task=5),
    "id a list": with_headers(id=[1]),
    "headers a list": envelope([1]),
    "eta garbage": with_headers(eta="soon"),
    "eta a number": with_headers(eta=5),
    "expires garbage": with_headers(expires="never"),
    "limits garbage": with_headers(timelimit="x"),
    "limits of text": with_headers(timelimit=["a", "b"]),
    "limits negative": with_headers(timelimit=[-1, None]),
    "retries text": with_headers(retries="many"),
    "retries huge": with_headers(retries=10**30),
    "stamps a list": with_headers(stamps=[1]),
    "unknown compression": with_headers(compression="application/x-nope"),
    "wrong compression": with_headers(compression="application/x-gzip"),
    "bomb": envelope(
        {**GOOD_HEADERS, "compression": "application/x-gzip"}, zlib.compress(bytes(MAX_INFLATED + 1), level=1)
    ),
    "pickle": envelope(body=b"\x80\x04N.", **{"content-type": "application/x-python-serialize"}),
    "yaml": envelope(body=b"!!python/object:os.system", **{"content-type": "application/x-yaml"}),
    "unknown content": envelope(**{"content-type": "application/x-nope"}),
    "callbacks a number": with_links(callbacks=5),
    "callbacks of numbers": with_links(callbacks=[1]),
    "errbacks text": with_links(errbacks="x"),
    "chain an object": with_links(chain={"task": "x"}),
    "chord text": with_links(chord="x"),
}

#: These can be read and run; what follows them cannot.
POISONED_ENDS: dict[str, bytes] = {
    "callback with args 5": with_links(callbacks=[{"task": "proj.add", "args": 5}]),
    "callback with options list": with_links(callbacks=[{"task": "proj.add", "options": [1]}]),
    "chain with options list": with_links(chain=[{"task": "proj.add", "options": [1]}]),
    "chain with serializer": with_links(
        chain=[{"task": "proj.add", "args": [1], "options": {"serializer": "no"}}]
    ),
    "group without tasks": with_links(callbacks=[{"task": "celery.group", "subtask_type": "group"}]),
}


def put(app: TaskQ, raw: bytes) -> None:
    HUBS[app.conf.broker_url].add([("celery", 0, raw)])


@pytest.mark.parametrize("raw", POISON.values(), ids=POISON)
async def test_a_message_that_cannot_be_read_is_kept_and_the_next_one_runs(
    app: TaskQ, add: Task[Any, int, Any], raw: bytes
) -> None:
    async with running(app):
        put(app, raw)
        assert await (await add.delay(2, 2)) == 4
        broker = await app.open_broker()
        [letter] = await eventually(broker.dead)
        assert letter.reason
        assert "\n" not in letter.reason
        if letter.message is not None and isinstance(letter.message.headers.get("id"), str):
            failure = await app.AsyncResult("bad-one").get(timeout=5, propagate=False)
            assert isinstance(failure, DecodeError)
    assert await (await app.open_broker()).size("celery") == 0


@pytest.mark.parametrize("raw", POISONED_ENDS.values(), ids=POISONED_ENDS)
async def test_a_message_with_a_poisoned_end_fails_once(
    app: TaskQ, add: Task[Any, int, Any], raw: bytes
) -> None:
    async with running(app):
        put(app, raw)
        failure = await app.AsyncResult("bad-one").get(timeout=5, propagate=False)
        assert isinstance(failure, Exception)
        assert await (await add.delay(2, 2)) == 4
    assert await (await app.open_broker()).size("celery") == 0


@pytest.mark.parametrize("key", ["errbacks", "chain"])
async def test_a_failing_task_with_a_poisoned_end_fails_once(app: TaskQ, key: str) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        raise ValueError("no")

    async with running(app):
        put(app, with_links(**{key: [{"task": "proj.add", "args": 5, "options": [1]}]}))
        failure = await app.AsyncResult("bad-one").get(timeout=5, propagate=False)
        assert isinstance(failure, Exception)
    assert await (await app.open_broker()).size("celery") == 0


async def test_the_caller_of_an_unknown_task_learns_of_it(app: TaskQ) -> None:
    async with running(app):
        with pytest.raises(NotRegistered, match=r"proj\.nowhere"):
            await (await app.send_task("proj.nowhere"))
    [letter] = await (await app.open_broker()).dead()
    assert letter.reason == "no task 'proj.nowhere' here"


async def test_the_caller_of_a_refused_content_learns_of_it(app: TaskQ, add: Task[Any, int, Any]) -> None:
    async with running(app):
        with pytest.raises(ContentDisallowed, match="accept_content"):
            await (await add.apply_async((2, 2), serializer="yaml"))


async def test_a_body_above_the_limit_is_refused(place: Place) -> None:
    app = place.app(max_message_bytes=3000)

    @app.task
    async def length(text: str) -> int:
        return len(text)

    async with running(app):
        assert await (await length.delay("x" * 500)) == 500
        put(app, envelope(body=b"x" * 3001))
        with pytest.raises(DecodeError, match="max_message_bytes is 3000"):
            await app.AsyncResult("bad-one")


async def test_a_message_that_killed_its_workers_is_not_run_again(
    app: TaskQ, add: Task[Any, int, Any]
) -> None:
    hub = HUBS[app.conf.broker_url]
    raws = [with_headers(), with_headers(timelimit="unreadable")]
    for number, raw in enumerate(raws):
        entry = Waiter(number - 10, "celery", 0, raw)
        entry.deaths = app.conf.max_deaths
        hub.requeue([entry])
    async with running(app):
        broker = await app.open_broker()
        letters = await eventually(lambda: _when(broker.dead(), lambda found: len(found) == 2))
        assert {letter.reason for letter in letters} == {"3 workers died while they held it"}
        with pytest.raises(WorkerLostError):
            await app.AsyncResult("bad-one")


async def _when(work: Any, holds: Callable[[Any], bool]) -> Any:
    found = await work
    return found if holds(found) else None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 2000), st.integers(0, 200))
def test_mutated_messages_do_no_harm(junk: bytes, at: int, cut: int) -> None:
    raw = envelope()
    at = min(at, len(raw))

    async def survive() -> None:
        app = TaskQ("proj", broker=f"memory://{id(junk)}-{at}-{cut}", backend="memory://mutants")

        @app.task(name="proj.add")
        async def add(x: int = 0, y: int = 0, **rest: Any) -> int:
            return 4

        async with running(app):
            put(app, raw[:at] + junk + raw[at + cut :])
            good = await add.delay(2, 2)
            assert await good.get(timeout=10) == 4
        HUBS.pop(app.conf.broker_url)

    asyncio.run(survive())
