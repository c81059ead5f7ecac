"""What goes on the wire for each option, and who decides where the call leaves it open."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from taskq import Task, TaskQ
from taskq.clock import set_source
from taskq.wire.fields import own_options
from taskq.wire.message import Message
from taskq.wire.protocol import decode
from taskq.wire.request import Request, current
from tests.harness import Place

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
AnyTask = Task[Any, Any, Any]


@pytest.fixture(autouse=True)
def frozen_clock() -> Any:
    before = set_source(NOW.timestamp)
    yield
    set_source(before)


@pytest.fixture
def add(app: TaskQ) -> AnyTask:
    @app.task(name="proj.add")
    def add(x: int = 0, y: int = 0) -> int:
        return x + y

    return add


def sent(task: AnyTask, args: Any = (), **options: Any) -> Message:
    [message], *_ = task.app.prepare(task.signature(args, **options))
    return message


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({"task_id": "mine"}, {"id": "mine", "root_id": "mine"}),
        ({"countdown": 10}, {"eta": "2026-11-22T12:00:10+00:00"}),
        ({"countdown": 0}, {"eta": None}),
        ({"countdown": 5, "eta": NOW}, {"eta": "2026-11-22T12:00:05+00:00"}),
        ({"eta": datetime(2027, 1, 1)}, {"eta": "2027-01-01T00:00:00+00:00"}),  # noqa: DTZ001 - naive means UTC
        (
            {"eta": datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=2)))},
            {"eta": "2026-12-31T22:00:00+00:00"},
        ),
        ({"expires": 60}, {"expires": "2026-11-22T12:01:00+00:00"}),
        ({"expires": timedelta(hours=1)}, {"expires": "2026-11-22T13:00:00+00:00"}),
        ({"expires": NOW}, {"expires": "2026-11-22T12:00:00+00:00"}),
        ({"time_limit": 9, "soft_time_limit": 8}, {"timelimit": [9, 8]}),
        ({"ignore_result": True}, {"ignore_result": True}),
        ({"shadow": "Nice"}, {"shadow": "Nice"}),
        ({"argsrepr": "(secret)", "kwargsrepr": "{secret}"}, {"argsrepr": "(secret)", "kwargsrepr": "{secret}"}),
        ({"headers": {"tenant": "acme"}}, {"tenant": "acme"}),
        ({"group_id": "g", "group_index": 3}, {"group": "g", "group_index": 3}),
        ({"root_id": "r", "parent_id": "p"}, {"root_id": "r", "parent_id": "p"}),
        ({"retries": 2}, {"retries": 2}),
        ({"replaced_task_nesting": 1}, {"replaced_task_nesting": 1}),
        ({"compression": "gzip"}, {"compression": "application/x-gzip"}),
    ],
    ids=str,
)  # fmt: skip
def test_options_in_the_headers(add: AnyTask, options: dict[str, Any], headers: dict[str, Any]) -> None:
    message = sent(add, **options)
    assert {name: message.headers[name] for name in headers} == headers


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"queue": "slow"}, {"routing_key": "slow", "exchange": ""}),
        ({"exchange": "news", "routing_key": "news.eu"}, {"routing_key": "news.eu", "exchange": "news"}),
        ({"priority": 7}, {"priority": 7}),
        ({"priority": 0}, {"priority": 0}),
        ({"reply_to": "me"}, {"reply_to": "me"}),
        ({"correlation_id": "c"}, {"correlation_id": "c"}),
        ({"task_id": "mine"}, {"correlation_id": "mine"}),
        ({"delivery_mode": 1}, {"delivery_mode": 1}),
        ({"delivery_mode": "transient"}, {"delivery_mode": 1}),
        ({"delivery_mode": "persistent"}, {"delivery_mode": 2}),
        ({"serializer": "msgpack"}, {"content_type": "application/x-msgpack"}),
        ({"countdown": 10}, {"due": NOW.timestamp() + 10}),
    ],
    ids=str,
)
def test_options_about_the_message(add: AnyTask, options: dict[str, Any], fields: dict[str, Any]) -> None:
    message = sent(add, **options)
    assert {name: getattr(message, name) for name in fields} == fields


def test_an_unknown_delivery_mode_is_refused(add: AnyTask) -> None:
    with pytest.raises(ValueError, match="delivery_mode is 'trasient'"):
        sent(add, delivery_mode="trasient")


def test_links_are_lists_of_signatures(add: AnyTask) -> None:
    request = decode(sent(add, link=add.s(1), link_error=[add.s(2), add.s(3).to_dict()]), ["json"])
    assert [link["args"] for link in request.callbacks or ()] == [[1]]
    assert [link["args"] for link in request.errbacks or ()] == [[2], [3]]
    assert decode(sent(add, link=[], link_error=None), ["json"]).callbacks is None


def test_what_is_about_sending_does_not_go_into_signatures(add: AnyTask) -> None:
    signature = add.signature((1,), link=add.signature((2,), connection=object(), queue="q"))  # type: ignore[arg-type]  # any will do
    assert signature.to_dict()["options"]["link"][0]["options"] == {"queue": "q"}


TASK = {
    "serializer": "yaml",
    "compression": "bzip2",
    "priority": 4,
    "expires": 60,
    "queue": "slow",
    "ignore_result": True,
}


def test_the_task_decides_what_the_call_leaves_open(app: TaskQ) -> None:
    def function() -> None: ...

    fun: AnyTask = app.task(**TASK)(function)  # type: ignore[call-overload]  # options by content
    message = sent(fun)
    assert message.content_type == "application/x-yaml"
    assert message.headers["compression"] == "application/x-bz2"
    assert (message.priority, message.routing_key) == (4, "slow")
    assert message.headers["expires"] == "2026-11-22T12:01:00+00:00"
    assert message.headers["ignore_result"] is True
    other = sent(
        fun, serializer="json", compression="zlib", priority=1, expires=10, queue="fast", ignore_result=False
    )
    assert (other.content_type, other.priority, other.routing_key) == ("application/json", 1, "fast")
    assert other.headers["expires"] == "2026-11-22T12:00:10+00:00"
    assert other.headers["ignore_result"] is False


def test_the_settings_decide_what_the_task_leaves_open(place: Place) -> None:
    app = place.app(
        task_serializer="msgpack",
        task_compression="gzip",
        task_default_priority=2,
        task_ignore_result=True,
        task_default_delivery_mode="transient",
        task_default_queue="mine",
    )

    @app.task
    def fun() -> None: ...

    message = sent(fun)
    assert (message.content_type, message.priority) == ("application/x-msgpack", 2)
    assert (message.delivery_mode, message.routing_key) == (1, "mine")
    assert message.headers["compression"] == "application/x-gzip"
    assert message.headers["ignore_result"] is True


def test_limits_are_left_to_the_worker(app: TaskQ) -> None:
    @app.task(time_limit=9, soft_time_limit=8)
    def fun() -> None: ...

    assert sent(fun).headers["timelimit"] == [None, None]


def test_inside_a_run_the_call_is_its_child(place: Place) -> None:
    app = place.app(task_inherit_parent_priority=True)

    @app.task
    def fun() -> None: ...

    @app.task(priority=1)
    def own() -> None: ...

    parent = Request(id="p", task="t", root_id="r", delivery_info={"priority": 6})
    token = current.set(parent)
    try:
        message = sent(fun)
        assert (message.headers["parent_id"], message.headers["root_id"]) == ("p", "r")
        assert (message.priority, sent(own).priority, sent(fun, priority=3).priority) == (6, 1, 3)
    finally:
        current.reset(token)
    assert sent(fun).headers["parent_id"] is None


def test_a_run_can_be_called_again_as_it_was(add: AnyTask) -> None:
    options: dict[str, Any] = {
        "task_id": "mine",
        "root_id": "r",
        "group_id": "g",
        "group_index": 1,
        "expires": NOW,
        "time_limit": 9,
        "soft_time_limit": 8,
        "shadow": "Nice",
        "link": add.s(1),
        "link_error": add.s(2),
        "reply_to": "me",
        "ignore_result": False,
        "headers": {"tenant": "acme"},
        "priority": 5,
        "chain": [add.s(3).to_dict()],
        "chord": add.s(4),
    }
    first = sent(add, (7,), **options)
    again = own_options(decode(first, ["json"]))
    second = sent(add, (7,), **again)
    second.headers["origin"] = first.headers["origin"]
    assert second == first
