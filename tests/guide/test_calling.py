"""Every example of Celery's guide "Calling Tasks", in the guide's order, with the outcome it documents.

What Celery blocks on is awaited here; nothing else differs.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskq import AsyncResult, Task, TaskQ, TaskRevokedError, group
from taskq.wire.request import Request
from tests.harness import Place, running
from tests.polling import eventually

Adding = Task[Any, int, Any]
#: For type checkers `s` takes a whole call; a callback's is a part of one.
Link = Task[Any, Any, Any]
NUMBERS = [(2, 2), (4, 4), (8, 8), (16, 16)]


@pytest.fixture(params=["plain", "async"])
def add(request: pytest.FixtureRequest, app: TaskQ) -> Adding:
    """The guide's task, as a function and as a coroutine function."""

    def plain(x: int, y: int) -> int:
        return x + y

    async def coroutine(x: int, y: int) -> int:
        return x + y

    fun = plain if request.param == "plain" else coroutine
    return app.task(name="proj.tasks.add")(fun)


@pytest.fixture
def fail(app: TaskQ) -> Task[Any, None, None]:
    @app.task
    def fail() -> None:
        raise ValueError("nothing works")

    return fail


# == basics


async def test_delay_and_apply_async_send_the_same_call(app: TaskQ, add: Adding) -> None:
    async with running(app):
        assert await (await add.delay(2, y=2)) == 4
        assert await (await add.apply_async((2,), {"y": 2})) == 4
        assert await (await add.apply_async(args=[2, 2], kwargs={})) == 4


async def test_calling_runs_in_this_process_and_sends_nothing(app: TaskQ) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add(2, 2) == 4
    broker = await app.open_broker()
    assert await broker.size("celery") == 0


async def test_a_task_that_is_not_registered_here_is_sent_by_name(
    place: Place, app: TaskQ, add: Adding
) -> None:
    async with running(app), place.app() as stranger:
        result = await stranger.send_task("proj.tasks.add", (2, 2))
        assert await result == 4


async def test_own_task_id(app: TaskQ, add: Adding) -> None:
    async with running(app):
        result = await add.apply_async((2, 2), task_id="my_own_task_id")
        assert result.id == "my_own_task_id"
        assert await app.AsyncResult("my_own_task_id") == 4


async def test_a_signature_has_the_same_verbs(app: TaskQ, add: Adding) -> None:
    async with running(app):
        assert await (await add.s(2, y=2).apply_async()) == 4
        assert await (await add.s(2).delay(3)) == 5
        assert await (await add.signature((2, 2), countdown=0).apply_async()) == 4


# == linking


async def test_link_gives_the_result_to_the_callback(app: TaskQ, add: Adding) -> None:
    async with running(app):
        result = await add.apply_async((2, 2), link=add.s(16))
        assert await result == 4
        [child] = (await result.refresh()).children
        assert isinstance(child, AsyncResult)
        assert await child == 20


async def test_the_errback_is_called_with_request_exception_and_traceback(
    app: TaskQ, fail: Task[Any, None, None], capsys: pytest.CaptureFixture[str]
) -> None:
    @app.task
    def error_handler(request: Request, exc: Exception, traceback: str) -> None:
        print(f"Task {request.id} raised exception: {exc!r}\n{traceback!r}")  # noqa: T201 - as in the guide

    errback: Link = error_handler

    async with running(app):
        result = await fail.apply_async(link_error=errback.s())
        with pytest.raises(ValueError, match="nothing works"):
            await result
        printed = await eventually(lambda: capsys.readouterr().out)
    assert printed.startswith(f"Task {result.id} raised exception: ValueError('nothing works')\n")
    assert "Traceback (most recent call last)" in printed
    assert "in fail" in printed


async def test_an_errback_of_one_argument_is_sent_as_a_task_with_the_id(
    app: TaskQ, fail: Task[Any, None, None], capsys: pytest.CaptureFixture[str]
) -> None:
    @app.task
    async def on_error(task_id: str) -> None:
        exc = await app.AsyncResult(task_id).get(propagate=False)
        print(f"Task {task_id} raised exception: {exc!r}")  # noqa: T201 - as in the guide

    errback: Link = on_error
    async with running(app):
        result = await app.send_task(fail.name, link_error=errback.s())
        printed = await eventually(lambda: capsys.readouterr().out)
    assert printed == f"Task {result.id} raised exception: ValueError('nothing works')\n"


async def test_links_in_a_list_all_get_the_result(app: TaskQ, add: Adding) -> None:
    seen = []

    @app.task
    def other_task(result: int) -> int:
        seen.append(result)
        return result

    other: Link = other_task
    async with running(app):
        result = await add.apply_async((2, 2), link=[add.s(16), other.s()])
        assert await result == 4
        await eventually(lambda: seen)
        [children] = (await result.refresh()).children
        assert await children.get() == [20, 4]
    assert seen == [4]


# == on message


async def test_on_message_gets_every_state_in_order(app: TaskQ) -> None:
    @app.task(bind=True)
    def hello(self: Task[Any, Any, Any], a: int, b: int) -> str:
        self.update_state(state="PROGRESS", meta={"progress": 50})
        self.update_state(state="PROGRESS", meta={"progress": 90})
        return f"hello world: {a + b}"

    messages: list[dict[str, Any]] = []
    r = await hello.apply_async(args=(1, 1), countdown=0.2)  # we listen before it begins
    async with running(app):
        assert await r.get(on_message=messages.append, propagate=False) == "hello world: 2"
    about: dict[str, Any] = {"task_id": r.id, "children": [], "traceback": None}
    assert [{key: message[key] for key in (*about, "status", "result")} for message in messages] == [
        {**about, "status": "PROGRESS", "result": {"progress": 50}},
        {**about, "status": "PROGRESS", "result": {"progress": 90}},
        {**about, "status": "SUCCESS", "result": "hello world: 2"},
    ]


# == eta and countdown


@pytest.mark.slow
async def test_countdown_of_3_takes_at_least_3_seconds(app: TaskQ) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    async with running(app):
        started = time.time()
        result = await add.apply_async((2, 2), countdown=3)
        assert await result.get() == 4
        assert time.time() - started >= 3


@pytest.mark.parametrize(
    "when",
    [
        lambda now: {"countdown": 0.3},
        lambda now: {"eta": now + timedelta(seconds=0.3)},
        lambda now: {"eta": (now + timedelta(seconds=0.3)).replace(tzinfo=None)},
        lambda now: {"countdown": 0.3, "expires": 120},
    ],
    ids=["countdown", "eta", "eta without zone is UTC", "countdown and expires"],
)
async def test_eta_is_never_early(app: TaskQ, when: Callable[[datetime], dict[str, Any]]) -> None:
    @app.task
    def clock() -> float:
        return time.time()

    async with running(app):
        now = datetime.now(UTC)
        result = await clock.apply_async((), **when(now))
        assert await result >= now.timestamp() + 0.3


async def test_tomorrow_is_not_today(app: TaskQ, add: Adding) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with running(app) as worker:
        later = await add.apply_async((2, 2), eta=tomorrow)
        assert await (await add.delay(2, 2)) == 4
        assert await later.ready() is False
        assert not worker.running
    broker = await app.open_broker()
    assert await broker.size("celery") == 1


# == expiration


@pytest.mark.parametrize(
    "expires",
    [-1, timedelta(seconds=-1), datetime.now(UTC) - timedelta(days=1), datetime(2020, 1, 1)],  # noqa: DTZ001 - naive
    ids=["seconds", "timedelta", "datetime", "naive datetime"],
)
async def test_an_expired_task_is_revoked(app: TaskQ, add: Adding, expires: Any) -> None:
    async with running(app):
        result = await add.apply_async((10, 10), expires=expires)
        with pytest.raises(TaskRevokedError, match="expired"):
            await result
        assert result.status == "REVOKED"


@pytest.mark.parametrize("expires", [60, datetime.now(UTC) + timedelta(days=1)], ids=["seconds", "datetime"])
async def test_a_task_that_has_not_expired_runs(app: TaskQ, add: Adding, expires: Any) -> None:
    async with running(app):
        assert await (await add.apply_async((10, 10), expires=expires)) == 20


async def test_a_task_that_expires_while_it_waits_is_revoked(app: TaskQ, add: Adding) -> None:
    async with running(app):
        result = await add.apply_async((10, 10), countdown=0.2, expires=0.1)
        with pytest.raises(TaskRevokedError, match="expired"):
            await result


# == serializers and compression


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
async def test_serializers(place: Place, serializer: str) -> None:
    app = place.app(accept_content=["json", "pickle", "yaml", "msgpack"])

    @app.task(name="proj.tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    async with running(app):
        assert await (await add.apply_async((10, 10), serializer=serializer)) == 20


async def test_what_is_not_accepted_fails_and_the_caller_learns_of_it(app: TaskQ, add: Adding) -> None:
    async with running(app):
        refused = await add.apply_async((10, 10), serializer="pickle")
        with pytest.raises(Exception, match="accept_content"):
            await refused
        assert refused.status == "FAILURE"


async def test_the_option_decides_before_the_task_and_the_task_before_the_setting(place: Place) -> None:
    app = place.app(task_serializer="yaml", accept_content=["json", "yaml", "msgpack"])

    @app.task
    def by_setting() -> None: ...

    @app.task(serializer="msgpack", compression="gzip")
    def by_task() -> None: ...

    def types(task: Task[Any, Any, Any], **options: Any) -> tuple[str, Any]:
        [message], _, _ = app.prepare(task.signature(**options))
        return message.content_type, message.headers.get("compression")

    assert types(by_setting) == ("application/x-yaml", None)
    assert types(by_task) == ("application/x-msgpack", "application/x-gzip")
    assert types(by_task, serializer="json", compression="zlib") == ("application/json", "application/x-gzip")


@pytest.mark.parametrize("compression", ["brotli", "bzip2", "gzip", "lzma", "zlib", "zstd"])
async def test_compression(app: TaskQ, add: Adding, compression: str) -> None:
    async with running(app):
        assert await (await add.apply_async((2, 2), compression=compression)) == 4


# == connections


async def test_a_publisher_is_reused_for_many_calls(app: TaskQ, add: Adding) -> None:
    results = []
    async with running(app):
        async with add.app.pool.acquire() as connection, add.get_publisher(connection) as publisher:
            for i, j in NUMBERS:
                res = await add.apply_async((i, j), publisher=publisher)
                results.append(res)
        assert [await res.get() for res in results] == [4, 8, 16, 32]


async def test_a_group_is_the_better_way(app: TaskQ, add: Adding) -> None:
    async with running(app):
        res = await group(add.s(i, j) for i, j in NUMBERS).apply_async()
        assert await res.get() == [4, 8, 16, 32]


# == routing


async def test_queue_decides_which_worker_gets_it(app: TaskQ, add: Adding) -> None:
    urgent = await add.apply_async((1, 1), queue="priority.high")
    usual = await add.apply_async((2, 2))
    async with running(app, queues=["priority.high"]):
        assert await urgent == 2
        assert await usual.ready() is False
    async with running(app, queues=["celery", "priority.high"]):
        assert await usual == 4


async def test_exchange_and_routing_key_are_those_of_the_message(app: TaskQ, add: Adding) -> None:
    [message], _, _ = app.prepare(add.signature((2, 2), exchange="feeds", routing_key="feed.news"))
    assert (message.exchange, message.routing_key) == ("feeds", "feed.news")


async def test_higher_priority_first(app: TaskQ) -> None:
    order: list[int] = []

    @app.task
    async def note(number: int) -> None:
        order.append(number)

    results = [await note.apply_async((number,), priority=number) for number in (0, 3, 9, 6)]
    async with running(app, concurrency=1):
        for result in results:
            await result
    assert order == [9, 6, 3, 0]


# == results


async def test_ignore_result(app: TaskQ, add: Adding) -> None:
    async with running(app):
        ignored = await add.apply_async((1, 2), ignore_result=True)
        kept = await add.apply_async((1, 2), ignore_result=False)
        assert await ignored.get() is None
        assert await kept.get() == 3
        assert await ignored.ready() is False


async def test_result_extended_tells_about_the_task(place: Place) -> None:
    app = place.app(result_extended=True)

    @app.task(name="proj.tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    async with running(app, hostname="celery@here"):
        result = await add.apply_async((1,), {"y": 2})
        assert await result == 3
    assert result.seen is not None
    extra = dict(result.seen.extra or {})
    assert extra == {
        "name": "proj.tasks.add",
        "args": [1],
        "kwargs": {"y": 2},
        "worker": "celery@here",
        "retries": 0,
        "queue": "celery",
    }


async def test_headers_of_the_caller_reach_the_task(app: TaskQ) -> None:
    @app.task(bind=True)
    def whence(self: Task[Any, Any, Any]) -> Any:
        return self.request.headers["periodic_task_name"]

    async with running(app):
        result = await whence.apply_async(headers={"periodic_task_name": "task_name"})
        assert await result == "task_name"
